"""Shapes of `.env` and of the environment, and what a service reads: python -m tests.env_table."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chassis import ChassisSettings
from chassis.commands.variables import explain, find_warnings
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError

MEANT = "postgresql://app@db:5432/shop"
URL = "APP_DATABASE_URL=postgresql://app:pa55@db/shop"
FIELDS = {"APP_DATABASE_BACKEND": "postgres", "APP_DATABASE_POSTGRES_NAME": "shop"} | {
    f"APP_DATABASE_POSTGRES_{name}": value
    for name, value in {"HOST": "db", "USER": "app", "PASSWORD": "pa55"}.items()
}


class Settings(ChassisSettings):
    """A service's settings, with a text and a secret of its own."""

    greeting: str = ""
    key: SecretStr | None = None


@dataclass(frozen=True)
class Shape:
    """Something that people write; `reads` are fields with their values, `says` is the one line.

    The database that is meant is MEANT in every shape: it is used, or the line says why not.
    """

    title: str
    dotenv: str | bytes | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, object] = field(default_factory=dict)
    says: str = ""
    warns: str = ""
    password: str = "pa55"


@dataclass(frozen=True)
class Outcome:
    """What a service made of a shape: settings and warnings, or the line that it ends with."""

    settings: Settings | None
    line: str
    warnings: tuple[str, ...] = ()


def greeting(title: str, line: str, text: str, **variables: str) -> Shape:
    """A shape whose line sets the greeting, before the database."""
    return Shape(title, f"{line}\n{URL}\n", variables, reads={"greeting": text})


def refused(title: str, dotenv: str | bytes, says: str, **variables: str) -> Shape:
    """A shape that is refused with a line."""
    return Shape(title, dotenv, variables, says=says)


SHAPES = (
    # How an assignment may be written
    greeting("plain", "APP_GREETING=hello", "hello"),
    greeting("spaces around =", "APP_GREETING = hello ", "hello"),
    greeting("export", "export APP_GREETING=hello", "hello"),
    greeting("a name in small letters", "app_greeting=hello", "hello"),
    greeting("an indented line and blank ones", "\n \t\n   APP_GREETING=hello\n", "hello"),
    greeting("comments", "# APP_GREETING=no\nAPP_GREETING=hello # yes", "hello"),
    greeting("a # inside a value", "APP_GREETING=a#b", "a#b"),
    greeting("a # in quotes", "APP_GREETING='a #b' # a comment", "a #b"),
    greeting("no value but a comment", "APP_GREETING= # later", ""),
    greeting(
        "an empty value is unset", "APP_GREETING=", "from the shell", APP_GREETING="from the shell"
    ),
    greeting("an = inside a value", "APP_GREETING=a=b", "a=b"),
    greeting("a quotation mark inside", "APP_GREETING=it's 5\" long", "it's 5\" long"),
    greeting("the environment beats it", "APP_GREETING=a", "b", APP_GREETING="b"),
    greeting("another program's names", "spring.port=1\n_X-Y=2\nAPP_GREETING=a", "a"),
    Shape("no file", None, {"APP_DATABASE_URL": "postgresql://app:pa55@db/shop"}),
    Shape("a byte order mark", b"\xef\xbb\xbf" + URL.encode()),
    Shape("line ends of Windows", f"APP_GREETING=a\r\n{URL}\r\n", reads={"greeting": "a"}),
    Shape("line ends of old Macs", f"APP_GREETING=a\r{URL}\r", reads={"greeting": "a"}),
    Shape("no line end at the end", f"APP_GREETING=a\n{URL}", reads={"greeting": "a"}),
    Shape(
        "set twice",
        f"APP_DATABASE_URL=postgresql://old/old\nAPP_GREETING=a\n{URL}\n",
        warns="APP_DATABASE_URL is set 2 times in .env; the last one counts",
    ),
    # Quotes, escapes and lines
    greeting("double quotes", 'APP_GREETING="a b"', "a b"),
    greeting("single quotes", "APP_GREETING='a b'", "a b"),
    greeting("quotes inside quotes", "APP_GREETING='\"a b\"'", '"a b"'),
    greeting("escapes in double quotes", r'APP_GREETING="a\"\\\tb"', 'a"\\\tb'),
    greeting("escapes in single quotes", r"APP_GREETING='a\'\\\tb'", r"a'\\tb"),
    greeting("escapes without quotes", r"APP_GREETING=a\nb", r"a\nb"),
    greeting(
        "several lines in quotes",
        'APP_GREETING="-----BEGIN\nMIIB=\n-----END"',
        "-----BEGIN\nMIIB=\n-----END",
    ),
    greeting("a line break at the end", r'APP_GREETING="hello\n"', "hello"),
    greeting("a path of Windows", r"APP_GREETING=C:\new\app.db", r"C:\new\app.db"),
    # Variables
    greeting("${x} of a line above", "A=1\nAPP_GREETING=${A}2", "12"),
    greeting("${x} of the environment", 'APP_GREETING="${B}2"', "12", B="1"),
    greeting("${x:-default}", "APP_GREETING=${NOT_SET_ANYWHERE:-a b}", "a b"),
    greeting("${x} in single quotes", "APP_GREETING='${HOME}'", "${HOME}"),
    greeting("$ and $$ alone", "APP_GREETING=$5 a$$b", "$5 a$$b"),
    Shape(
        "a password with ${x}",
        "APP_DATABASE_POSTGRES_PASSWORD='pa${x}55'\n",
        {k: v for k, v in FIELDS.items() if "PASSWORD" not in k},
        password="pa${x}55",
    ),
    refused(
        "${x} that is not set",
        "APP_DATABASE_URL=postgresql://app:${NOT_SET}@db/shop",
        ".env, line 1: the value of APP_DATABASE_URL has a ${…} whose variable is not set;",
    ),
    refused(
        "${x:?message}",
        f"{URL}\nAPP_GREETING=${{NOT_SET:?no}}",
        ".env, line 2: the value of APP_GREETING has a ${…} that is neither",
    ),
    refused(
        "$NAME without braces",
        "APP_DATABASE_URL=postgresql://app:$DB_PASSWORD@db/shop",
        ".env, line 1: the value of APP_DATABASE_URL has a variable without braces",
        DB_PASSWORD="pa55",
    ),
    # What is none
    refused(
        "KEY: value",
        "\nAPP_DATABASE_URL: postgresql://app:pa55@db/shop",
        ".env, line 2: is no assignment; write NAME=value",
    ),
    refused(
        "KEY:value?x=y",
        "APP_DATABASE_URL:postgresql://app:pa55@db/shop?sslmode=require",
        ".env, line 1: is no assignment",
    ),
    refused("prose", f"{URL}\nAsk Ann for the password", ".env, line 2: is no assignment"),
    refused("a name alone", f"{URL}\nAPP_GREETING", ".env, line 2: is no assignment"),
    refused("export of a name alone", "export APP_DATABASE_URL", ".env, line 1: is no assignment"),
    refused("set, as in cmd.exe", f"set {URL}", ".env, line 1: is no assignment"),
    refused(
        "a name in quotes",
        '"APP_DATABASE_URL"="postgresql://app:pa55@db/shop"',
        ".env, line 1: is no assignment",
    ),
    refused("a space of no width before a name", f"\u200b{URL}", ".env, line 1: is no assignment"),
    refused("a conflict marker", f"<<<<<<< HEAD\n{URL}", ".env, line 1: is no assignment"),
    refused(
        "a quote that is not closed",
        'APP_DATABASE_URL="postgresql://app:pa55@db/shop\n',
        ".env, line 1: the quotation mark before the value of APP_DATABASE_URL is not closed",
    ),
    refused(
        "one that another line closes",
        f'APP_GREETING="hello\n{URL}"',
        ".env, line 1: the quotation mark before the value of APP_GREETING",
    ),
    refused(
        "one that another value opens",
        f'APP_GREETING="hello\n{URL}\nAPP_KEY="k"',
        ".env, line 1: the quotation mark before the value of APP_GREETING",
    ),
    refused(
        "text behind a closing quote",
        'APP_DATABASE_URL="postgresql://app:pa55@db"/shop',
        ".env, line 1: the quotation mark before the value of APP_DATABASE_URL",
    ),
    refused(
        "a quote that was not opened",
        'APP_DATABASE_URL=postgresql://app:pa55@db/shop"',
        ".env, line 1: the value of APP_DATABASE_URL ends in a quotation mark that was not opened",
    ),
    refused(
        "typographic quotes",
        "APP_GREETING=\u201chello\u201d",
        "APP_GREETING in .env: remove the quotation marks",
    ),
    refused(
        "typographic quotes around a URL",
        "APP_DATABASE_URL=\u201cpostgresql://db/shop\u201d",
        "APP_DATABASE_URL: remove the quotation marks",
    ),
    refused(
        "another encoding",
        f"{URL}\n# caf\u00e9".encode("latin-1"),
        ".env, line 2: is not UTF-8 text",
    ),
    refused(
        "UTF-16, as PowerShell writes", URL.encode("utf-16"), ".env, line 1: is not UTF-8 text"
    ),
    refused("a NUL byte", f"{URL}\nAPP_GREETING=\0", ".env, line 2: is not UTF-8 text"),
    refused("more than a file of settings has", f"{URL}\n" * 10_000, ".env has more than 256 KiB"),
    refused(
        "a path with an escape in quotes",
        r'APP_DATABASE_SQLITE_PATH="C:\new\app.db"',
        "APP_DATABASE_SQLITE_PATH: has a line break or another control character",
    ),
    refused(
        "a path with ~",
        "APP_DATABASE_SQLITE_PATH=~/app.db",
        "APP_DATABASE_SQLITE_PATH: write the whole path",
    ),
    refused(
        "a URL as a path",
        "APP_DATABASE_SQLITE_PATH=sqlite:///data/app.db",
        "APP_DATABASE_SQLITE_PATH: write the whole path",
    ),
    refused(
        "a file URI",
        "APP_DATABASE_URL=sqlite:///file:data/app.db?mode=ro&uri=true",
        "APP_DATABASE_URL: a SQLite file URI (file:…) can't be used",
    ),
    # The platform's names
    Shape(
        "DATABASE_URL in .env",
        f"DATABASE_URL=postgresql://other/other\n{URL}",
        warns="DATABASE_URL in .env is not read; name it APP_DATABASE_URL",
    ),
    refused(
        "DATABASE_URL in .env alone",
        "DATABASE_URL=postgresql://other/other",
        "DATABASE_URL in .env is not read, and nothing else names a database: name it APP_DATABA",
    ),
    refused(
        "a host and a password without a backend",
        "APP_DATABASE_POSTGRES_HOST=db\nAPP_DATABASE_POSTGRES_PASSWORD=pa55",
        "APP_DATABASE_POSTGRES_HOST is not read without APP_DATABASE_BACKEND=postgres",
    ),
    Shape(
        "a name that is none",
        f"{URL}\nAPP_GREETNG=a",
        warns="APP_GREETNG in .env is not a setting of this service and is ignored; did you mean",
    ),
    refused(
        "another name of the URL",
        "APP_DB_URL=postgresql://app:pa55@db/shop",
        "APP_DB_URL is not read, and nothing else names a database: name it APP_DATABASE_URL",
    ),
    refused(
        "a file with the URL, as Docker's images have it",
        "",
        "DATABASE_URL_FILE is not read, and nothing else names a database: put its value into",
        DATABASE_URL_FILE="/run/secrets/url",
    ),
    refused(
        "a password's file without a backend",
        "APP_DATABASE_POSTGRES_PASSWORD_FILE=/run/secrets/password",
        "APP_DATABASE_POSTGRES_PASSWORD_FILE is not read without APP_DATABASE_BACKEND=postgres",
    ),
    Shape(
        "a file with the URL, beside the URL",
        URL,
        {"APP_DATABASE_URL_FILE": "/run/secrets/url"},
        warns="put its value into a file named app_database_url",
    ),
    # The environment
    Shape(
        "the fields, each with a line break at its end",
        None,
        {name: f"{value}\n" for name, value in FIELDS.items()},
    ),
    Shape(
        "a URL with a line break of Windows",
        None,
        {"APP_DATABASE_URL": "postgresql://app:pa55@db/shop\r\n"},
    ),
    Shape(
        "a platform's variables with one",
        None,
        {"DATABASE_URL": "postgres://app:pa55@db/shop\n", "PORT": "9000\n"},
        reads={"server_port": 9000},
    ),
    Shape(
        "a key with line breaks inside",
        URL,
        {"APP_KEY": "a\nb\n"},
        reads={"key": SecretStr("a\nb")},
    ),
    Shape("nothing but a line break", URL, {"APP_DATABASE_URL": "\n"}),
    refused(
        "a line break inside a URL",
        "",
        "APP_DATABASE_URL: has a line break",
        APP_DATABASE_URL="postgresql://app:pa55\n@db/shop",
    ),
    refused(
        "quotes, as docker --env-file keeps",
        "",
        "APP_DATABASE_URL: remove the quotation marks",
        APP_DATABASE_URL='"postgresql://app:pa55@db/shop"',
    ),
    refused(
        "quotes around a path",
        "",
        "APP_DATABASE_SQLITE_PATH: remove the quotation marks",
        APP_DATABASE_SQLITE_PATH="'/data/app.db'",
    ),
    refused(
        "quotes around a number",
        URL,
        "APP_SERVER_PORT: remove the quotation marks",
        APP_SERVER_PORT='"8000"',
    ),
    Shape(
        "quotes around a password",
        None,
        FIELDS | {"APP_DATABASE_POSTGRES_PASSWORD": '"pa55"'},
        password='"pa55"',
        warns="APP_DATABASE_POSTGRES_PASSWORD has quotation marks around it",
    ),
    refused(
        "two spellings that differ",
        "",
        "APP_DATABASE_URL is set twice, in capitals and not",
        APP_DATABASE_URL="postgresql://db/shop",
        app_database_url="postgresql://db/other",
    ),
    # Kubernetes
    Shape(
        "a Service app-server",
        URL,
        {
            "APP_SERVER_PORT": "tcp://10.0.0.1:80",
            "APP_SERVER_SERVICE_HOST": "10.0.0.1",
            "APP_SERVER_PORT_80_TCP_ADDR": "10.0.0.1",
        },
        reads={"server_port": 8000},
        warns="enableServiceLinks: false",
    ),
    Shape(
        "a Service app-database-postgres",
        None,
        FIELDS | {"APP_DATABASE_POSTGRES_PORT": "tcp://10.0.0.1:5432"},
        warns="the Service app-database-postgres",
    ),
    Shape(
        "a Service app-metrics, over IPv6",
        URL,
        {"APP_METRICS_PORT": "tcp://[fd00::1]:9090"},
        reads={"metrics_port": None},
        warns="the Service app-metrics",
    ),
    Shape(
        "a port of its own beside a Service",
        URL,
        {"APP_SERVER_PORT": "9000", "APP_SERVER_PORT_80_TCP": "tcp://10.0.0.1:80"},
        reads={"server_port": 9000},
        warns="the Service app-server",
    ),
    refused(
        "an address that no Service has",
        URL,
        "APP_SERVER_PORT: must be a whole number",
        APP_SERVER_PORT="tcp://0.0.0.0:8000",
    ),
    refused(
        "a Service's address in .env",
        f"{URL}\nAPP_SERVER_PORT=tcp://10.0.0.1:80",
        "APP_SERVER_PORT: must be a whole number",
    ),
    refused(
        "an address in brackets",
        URL,
        "APP_SERVER_HOST: must be an address or a name",
        APP_SERVER_HOST="[::]",
    ),
)


def outcome_of(shape: Shape) -> Outcome:
    """Read the settings as a service does, in a folder with that `.env` and that environment."""
    with _placed(shape):
        try:
            warnings = tuple(find_warnings(Settings))
            return Outcome(Settings(), "", warnings)
        except (ValidationError, SettingsError) as error:
            line = explain(error, Settings)
            return Outcome(None, line.removeprefix("the settings are not valid\n  "))


@contextmanager
def _placed(shape: Shape) -> Iterator[None]:
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="env-table-") as folder, chdir(folder):
        if shape.dotenv is not None:
            text = shape.dotenv
            Path(".env").write_bytes(text.encode() if isinstance(text, str) else text)
        for name in [
            name for name in before if name.upper().startswith(("APP_", "DATABASE_", "PORT"))
        ]:
            del os.environ[name]
        os.environ.update({"APP_SECRETS_DIR": folder, **shape.environment})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _row(shape: Shape) -> str:
    found = outcome_of(shape)
    if found.settings is None:
        return f"{shape.title:<44} refused: {found.line}"
    values = {name: getattr(found.settings, name) for name in shape.reads}
    said = "".join(f"; warning: {warning}" for warning in found.warnings)
    read = ", ".join(f"{name} {value!r}" for name, value in values.items())
    database = found.settings.database_target.masked
    return f"{shape.title:<44} reads {', '.join(filter(None, (read, database)))}{said}"


if __name__ == "__main__":
    print("\n".join(map(_row, SHAPES)))
    print(f"{len(SHAPES)} shapes; the database that is meant in each: {MEANT}")
