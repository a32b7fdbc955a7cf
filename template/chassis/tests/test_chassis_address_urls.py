"""Database URLs: both drivers get what was written, and what can't work is refused clearly."""

import random
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chassis_depot import written
from chassis_logins import administered, role
from chassis_relay import relayed
from chassis_stock import only_on, register_dialect
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from sqlalchemy import URL, text

from chassis import ChassisSettings
from chassis.db import DatabaseSettings, DatabaseUnavailableError, create_database_engine
from chassis.db.address.urls import DatabaseTarget, parse_url
from chassis.db.errors import DatabaseSettingsError
from chassis.db.migrations.upgrade import upgrade

VARIABLE = "APP_DATABASE_URL"
ENCODED = ("%", "%%", "%41", "%2F", "%40", "%zz", "%(x)s", "${x}", "{x}", "\\u0041")
UNICODE = "äßéñøλжקかな漢字한€→😀\u00a0\u2028\u202e\ufeff"
ALPHABET = (*string.printable, *UNICODE, *ENCODED)


def random_texts(count: int) -> list[str]:
    """Return texts of 1 to 24 parts; among them each part by itself."""
    chance = random.Random("passwords")
    mixed = ["".join(chance.choices(ALPHABET, k=chance.randint(1, 24))) for _ in range(count)]
    return [*ALPHABET, *mixed][:count]


def given_to_drivers(target: DatabaseTarget) -> list[dict[str, object]]:
    """Return what SQLAlchemy hands to asyncpg and to psycopg."""
    urls = (target.runtime()[0], target.migration()[0])
    return [dict(url.get_dialect()().create_connect_args(url)[1]) for url in urls]


def drivers(target: DatabaseTarget) -> tuple[str, str]:
    return target.runtime()[0].drivername, target.migration()[0].drivername


def refusal(url: str) -> str:
    with pytest.raises(DatabaseSettingsError) as caught:
        parse_url(url, VARIABLE)
    return str(caught.value)


class GivenSettings(DatabaseSettings):
    """Settings from nowhere but their arguments: looking into each source takes 3 ms."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *args: PydanticBaseSettingsSource,
        **kwargs: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def test_2000_random_passwords_come_back_from_the_fields() -> None:
    for password in random_texts(2000):
        user, name = f"u{password}", f"{password}d"

        target = GivenSettings(
            database_backend="postgres",
            database_postgres_host="db.example",
            database_postgres_password=SecretStr(password),
            database_postgres_user=user,
            database_postgres_name=name,
        ).database_target

        expected = URL.create("postgresql", user, password, "db.example", 5432, name)
        assert target.runtime()[0].set(drivername="postgresql") == expected
        assert target.migration()[0].set(drivername="postgresql") == expected


def test_every_character_comes_back_from_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE_BACKEND", "postgres")
    for password in ("".join(ALPHABET), *ENCODED, " "):
        monkeypatch.setenv("APP_DATABASE_POSTGRES_PASSWORD", password)

        target = DatabaseSettings().database_target

        assert target.runtime()[0].password == target.migration()[0].password == password


def test_2000_random_passwords_come_back_from_an_encoded_url() -> None:
    for password in random_texts(2000):
        user, name = f"u{password}", f"{password}d"
        credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"

        target = parse_url(
            f"postgres://{credentials}@db.example:6432/{quote(name, safe='')}", VARIABLE
        )

        expected = URL.create("postgresql", user, password, "db.example", 6432, name)
        assert target.runtime()[0].set(drivername="postgresql") == expected
        assert target.migration()[0].set(drivername="postgresql") == expected


def test_both_drivers_are_given_the_password_itself() -> None:
    for password in random_texts(len(ALPHABET) + 100):
        target = parse_url(f"postgres://ann:{quote(password, safe='')}@db.example/app", VARIABLE)

        for given in given_to_drivers(target):
            assert given["password"] == password
            assert (given["user"], given["host"], given["port"]) == ("ann", "db.example", 5432)


@pytest.mark.parametrize(
    "scheme",
    [
        "postgres",
        "postgresql",
        "postgresql+psycopg2",
        "postgresql+asyncpg",
        "postgresql+psycopg",
        "POSTGRESQL",
    ],
)
def test_every_spelling_of_postgresql_is_asyncpg_and_psycopg(scheme: str) -> None:
    target = parse_url(f"{scheme}://ann:pw@db.example/app", VARIABLE)

    assert drivers(target) == ("postgresql+asyncpg", "postgresql+psycopg")


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"])
def test_every_spelling_of_sqlite_is_aiosqlite_and_sqlite(scheme: str) -> None:
    target = parse_url(f"{scheme}:///data/app.db", VARIABLE)

    assert drivers(target) == ("sqlite+aiosqlite", "sqlite")
    assert target.url.database == "data/app.db"


def test_an_absolute_sqlite_path_has_four_slashes(tmp_path: Path) -> None:
    target = parse_url(f"sqlite:///{tmp_path}/100%.db", VARIABLE)

    assert target.url.database == f"{tmp_path}/100%.db"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite:///app.db?mode=memory",
        "sqlite:///file:app?mode=memory&uri=true",
        "sqlite:///file::memory:?cache=shared",
    ],
)
def test_an_in_memory_database_is_refused_with_advice(url: str) -> None:
    message = refusal(url)

    assert message.startswith(VARIABLE)
    assert "sqlite:///data/app.db" in message
    assert "tmp_path" in message


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("s3cret", "not a URL"),
        ("postgresql//ann:s3cret@h/app", "not a URL"),
        ("postgresql:ann:s3cret@h/app", "not a URL"),
        ("://ann:s3cret@h/app", "not a URL"),
        ("postgresql://ann:s3cret@h:port/app", "port is not a number"),
        ("postgresql://ann:s3cret@h:0/app", "port is not a number"),
        ("postgresql://ann:s3cret@h:65536/app", "port is not a number"),
        ("postgresql://ann:s3cret@h/app?port=x", "port is not a number"),
        ("postgresql://ann:s3cret/with/slashes@h/app", "percent-encode"),
        ("postgresql://ann:s3cret?with=x@h/app", "unknown option after ?"),
        ("postgresql://h/app?s3cret", "name=value"),
        ("postgresql://ann:s3cret@::1/app", "[::1]:5432"),
        ("postgresql://ann:s3cret@[::1/app", "[::1]:5432"),
        ("postgresql://ann:s3cret@[::1]5432/app", "[::1]:5432"),
        ("postgresql+pg8000://ann:s3cret@h/app", "leave the driver out"),
        ("sqlite+pysqlcipher://:s3cret@/app.db", "leave the driver out"),
        ("sqlite://app.db", "three slashes"),
        ("sqlite:///app.db?timeout=s3cret", "APP_DATABASE_SQLITE_"),
        ("oracle+nothing://ann:s3cret@h/app", "its driver is not installed"),
        ("nothing://ann:s3cret@h/app", "its driver is not installed"),
        ("mssql+aioodbc://ann:s3cret@h:s3cret/app", "percent-encode"),
    ],
)
def test_a_malformed_url_is_refused_without_showing_it(url: str, advice: str) -> None:
    message = refusal(url)

    assert message.startswith(f"{VARIABLE}: ")
    assert advice in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("sslmod=require", "did you mean sslmode?"),
        ("nonsense=s3cret", "unknown option"),
        ("command_timeout=5", "APP_DATABASE_STATEMENT_TIMEOUT_SECONDS"),
        ("statement_cache_size=0", "APP_DATABASE_PGBOUNCER=true"),
        ("prepared_statement_cache_size=0", "APP_DATABASE_PGBOUNCER=true"),
        ("connection_limit=5", "APP_DATABASE_POOL_SIZE"),
        ("pool_timeout=5", "APP_DATABASE_POOL_TIMEOUT"),
        ("schema=billing", "search_path"),
        ("require_auth=scram-sha-256", "sslmode=verify-full"),
        ("gssencmode=require", "use TLS"),
        ("client_encoding=latin1", "UTF-8"),
        ("service=billing", "host, port, user and database"),
        ("load_balance_hosts=random", "list the hosts in order"),
        ("sslmode=strict", "sslmode is one of"),
        ("connect_timeout=s3cret", "whole number of seconds"),
    ],
)
def test_an_option_that_a_driver_cannot_honour_is_one_clear_error(option: str, advice: str) -> None:
    message = refusal(f"postgresql://ann:s3cret@h/app?{option}")

    assert message.startswith(f"{VARIABLE}: ")
    assert advice in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("option", "asyncpg", "psycopg"),
    [
        ("sslmode=require", {"dsn": "postgresql://?sslmode=require"}, None),
        ("application_name=a%26b", {"server_settings": {"application_name": "a&b"}}, None),
        ("options=-c%20jit%3Doff", {"server_settings": {"options": "-c jit=off"}}, None),
        ("connect_timeout=7", {"timeout": 7.0}, None),
        ("connect_timeout=0", {"timeout": None}, None),
        ("keepalives_idle=30", {}, None),
        ("tcp_user_timeout=9000", {}, None),
        (
            "ssl=true",
            {"dsn": "postgresql://?sslmode=require"},
            {"sslmode": "require"},
        ),
        ("fallback_application_name=a", {"server_settings": {"application_name": "a"}}, None),
        ("client_encoding=utf8", {}, {}),
        ("gssencmode=disable", {}, {}),
        ("schema=public", {}, {}),
        ("pgbouncer=true", {}, {}),
        ("channel_binding=prefer", {}, {}),
        ("sslmode=", {}, {}),
    ],
)
def test_options_are_translated_for_each_driver(
    option: str, asyncpg: dict[str, object], psycopg: dict[str, object] | None
) -> None:
    target = parse_url(f"postgresql://ann:pw@h/app?{option}", VARIABLE)
    name, _, value = option.partition("=")
    as_written = {name.removeprefix("fallback_"): value.replace("%26", "&")}
    if name == "options":
        as_written = {"options": "-c jit=off"}

    assert target.runtime()[1] == asyncpg
    assert target.migration()[1] == (as_written if psycopg is None else psycopg)
    assert target.runtime()[0].query == target.migration()[0].query == {}


def test_a_pooler_named_in_the_url_is_understood() -> None:
    assert parse_url("postgres://ann:pw@h/app?pgbouncer=true", VARIABLE).pgbouncer
    assert not parse_url("postgres://ann:pw@h/app", VARIABLE).pgbouncer


def test_a_security_option_that_asyncpg_ignores_is_a_warning() -> None:
    (warning,) = parse_url("postgres://h/app?channel_binding=require", VARIABLE).warnings

    assert VARIABLE in warning
    assert "channel_binding=require" in warning


def test_a_missing_certificate_is_named_before_anything_connects(tmp_path: Path) -> None:
    target = parse_url(
        f"postgres://h/app?sslmode=verify-full&sslrootcert={tmp_path}/ca.pem", VARIABLE
    )

    for arguments in (target.runtime, target.migration):
        with pytest.raises(DatabaseSettingsError, match="the file of sslrootcert can't be read"):
            arguments()


@pytest.mark.parametrize(
    ("authority", "hosts"),
    [
        ("", [("localhost", 5432)]),
        ("ann@", [("localhost", 5432)]),
        ("h", [("h", 5432)]),
        ("h:", [("h", 5432)]),
        (":6432", [("localhost", 6432)]),
        ("[::1]", [("::1", 5432)]),
        ("[2001:db8::1]:6432", [("2001:db8::1", 6432)]),
        ("h1:1,h2:2", [("h1", 1), ("h2", 2)]),
        ("%2Frun%2Fpostgresql", [("/run/postgresql", 5432)]),
        ("a@b:pw@h", [("h", 5432)]),
    ],
)
def test_hosts_are_read_as_libpq_reads_them(authority: str, hosts: list[tuple[str, int]]) -> None:
    assert parse_url(f"postgresql://{authority}/app", VARIABLE).hosts == tuple(hosts)


@pytest.mark.parametrize(
    ("query", "hosts"),
    [
        ("host=/run/postgresql", [("/run/postgresql", 5432)]),
        ("host=h1:1&host=h2:2", [("h1", 1), ("h2", 2)]),
        ("host=h1&port=6432", [("h1", 6432)]),
    ],
)
def test_hosts_may_stand_in_the_query(query: str, hosts: list[tuple[str, int]]) -> None:
    assert parse_url(f"postgresql:///app?{query}", VARIABLE).hosts == tuple(hosts)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("localhost/app?host=/cloudsql/p:r:i", "ann@[/cloudsql/p:r:i]:5432/app"),
        ("localhost:6432/app?host=db", "ann@db:6432/app"),
        ("localhost:1/app?host=h1:2,h2", "ann@h1:2,h2:1/app"),
        ("db:1/app?host=", "ann@db:1/app"),
        ("db:1/app?port=2", "ann@db:2/app"),
        ("h1:1,h2/app?port=2,3", "ann@h1:2,h2:3/app"),
        ("db/app?user=bob&dbname=other", "bob@db:5432/other"),
        ("db/app?password=other", "ann@db:5432/app"),
    ],
)
def test_what_stands_after_the_question_mark_wins_as_in_libpq(url: str, masked: str) -> None:
    target = parse_url(f"postgres://ann:pw@{url}", VARIABLE)
    assert target.masked == f"postgresql://{masked}"
    assert target.url.password == ("other" if "password=" in url else "pw")


@pytest.mark.parametrize(
    "rest",
    [
        "ann:2024/s3cret@db.example:5432/app",
        "ann:2024/s3cr/et@db.example/app",
        "ann@db/app,postgres://ann:s3cret@db/app",
        "db/app/",
    ],
)
def test_a_password_that_was_not_encoded_never_becomes_the_name(rest: str) -> None:
    with pytest.raises(DatabaseSettingsError) as caught:
        parse_url(f"postgres://{rest}", VARIABLE)
    assert str(caught.value).startswith(f"{VARIABLE}: the database's name has a / or an @")
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("rest", ["h", "h/", "@h", ":@h", "h?password=", "h?user=&dbname="])
def test_what_a_url_leaves_out_is_left_to_the_driver(rest: str) -> None:
    url = parse_url(f"postgresql://{rest}", VARIABLE).url

    assert (url.username, url.password, url.database) == (None, None, None)


def test_several_hosts_reach_both_drivers() -> None:
    target = parse_url("postgres://ann:pw@h1:1,h2:2/app", VARIABLE)

    assert target.runtime()[1].items() >= {"host": ["h1", "h2"], "port": [1, 2]}.items()
    assert target.migration()[1].items() >= {"host": "h1,h2", "port": "1,2"}.items()


def test_a_socket_folder_reaches_both_drivers() -> None:
    target = parse_url("postgres://ann@%2Frun%2Fpostgresql/app", VARIABLE)

    assert target.runtime()[1] == {"host": ["/run/postgresql"], "port": [5432]}
    assert target.migration()[1] == {"host": "/run/postgresql", "port": "5432"}


def test_an_ipv6_host_reaches_both_drivers() -> None:
    for given in given_to_drivers(parse_url("postgres://ann:pw@[::1]:6432/app", VARIABLE)):
        assert (given["host"], given["port"]) == ("::1", 6432)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://ann:s3cret@h1,h2:2/app?application_name=s3cret",
        "postgres://h/app?user=ann&password=s3cret&sslpassword=s3cret",
        "postgres:///app?host=/run/postgresql&password=s3cret",
        "depot://ann:s3cret@h/app?password=s3cret",
    ],
)
def test_neither_the_masked_target_nor_its_repr_has_a_secret(url: str, depot: None) -> None:
    target = parse_url(url, VARIABLE)

    assert "app" in target.masked
    for shown in (target.masked, repr(target), str(target)):
        assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgres://ann:pw@h/app?sslmode=require", "postgresql://ann@h:5432/app"),
        ("postgres://ann:pw@[::1],h:2/app", "postgresql://ann@[::1]:5432,h:2/app"),
        ("sqlite:///data/app.db", "sqlite:///data/app.db"),
        ("depot://ann:pw@h/app?x=y", "depot://ann:***@h/app"),
    ],
)
def test_the_masked_target_says_where_it_is(url: str, masked: str, depot: None) -> None:
    assert parse_url(url, VARIABLE).masked == masked


def test_another_dialect_is_kept_as_it_was_written(depot: None) -> None:
    target = parse_url("depot+aiosqlite:///data/app.db?x=y", VARIABLE)

    assert target.backend == "custom"
    assert target.runtime() == target.migration()
    assert target.runtime()[0].render_as_string() == "depot+aiosqlite:///data/app.db?x=y"


@pytest.fixture
def depot() -> None:
    """Register a dialect that the chassis does not know."""
    register_dialect()


NASTY = (
    "p@ss:w/o?r#d%41&=+;",
    "%",
    "%%(here)s %2F%40 ${x}",
    "'quote' \"double\" back\\slash",
    " spaces at both ends ",
    "\t\n\r control \x7f",
    "äßж漢字→😀\u00a0\u202e",
    string.printable,
)


async def test_the_nastiest_passwords_log_in_on_both_drivers(
    settings: ChassisSettings, tmp_path: Path
) -> None:
    only_on("postgres", settings)
    with (
        administered(settings) as admin,
        relayed(settings.database_target) as relay,
        written(tmp_path) as depot,
    ):
        depot.add("1", "op.create_table('bin', sa.Column('id', sa.Integer, primary_key=True))")
        for password in NASTY:
            with role(admin, password) as (user, name):
                for given in (
                    from_fields(relay.port, user, password, name),
                    from_url(relay.port, user, password, name),
                ):
                    upgrade(depot.package, given)
                    assert await logged_in(given) == (user, name, 0)
                wrong = from_fields(relay.port, user, password + "x", name)
                with pytest.raises(DatabaseUnavailableError):
                    upgrade(depot.package, wrong)
                with pytest.raises(DatabaseUnavailableError):
                    await logged_in(wrong)


def from_fields(port: int, user: str, password: str, name: str) -> DatabaseSettings:
    return DatabaseSettings(
        database_backend="postgres",
        database_postgres_host="127.0.0.1",
        database_postgres_port=port,
        database_postgres_user=user,
        database_postgres_password=SecretStr(password),
        database_postgres_name=name,
    )


def from_url(port: int, user: str, password: str, name: str) -> DatabaseSettings:
    user, password, name = (quote(part, safe="") for part in (user, password, name))
    url = f"postgresql://{user}:{password}@127.0.0.1:{port}/{name}"
    return DatabaseSettings(database_url=SecretStr(url))


async def logged_in(settings: DatabaseSettings) -> Any:
    engine = create_database_engine(settings)
    try:
        async with engine.connect() as connection:
            query = "SELECT current_user, current_database(), (SELECT count(*) FROM bin)"
            return (await connection.execute(text(query))).one()
    finally:
        await engine.dispose()


async def test_every_option_is_accepted_by_both_drivers(
    settings: ChassisSettings, tmp_path: Path
) -> None:
    only_on("postgres", settings)
    options = (
        "sslmode=prefer&connect_timeout=5&application_name=a%20b&options=-c%20jit%3Doff"
        "&keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3"
        "&tcp_user_timeout=9000&target_session_attrs=read-write&channel_binding=prefer"
        "&ssl_min_protocol_version=TLSv1.2&client_encoding=utf8&gssencmode=disable"
    )
    with relayed(settings.database_target) as relay, written(tmp_path) as depot:
        database = settings.database_target.url.database
        user = settings.database_target.url.username
        url = f"postgres://{user}@127.0.0.1:1,127.0.0.1:{relay.port}/{database}?{options}"
        given = DatabaseSettings(database_url=SecretStr(url))
        depot.add("1", "op.execute('CREATE TABLE bin AS SELECT name, setting FROM pg_settings')")

        upgrade(depot.package, given)

        shown = {"application_name": "a b", "jit": "off"}
        query = "SELECT name, setting FROM {} WHERE name IN ('application_name', 'jit')"
        engine = create_database_engine(given)
        async with engine.connect() as connection:
            for table in ("pg_settings", "bin"):
                rows = await connection.execute(text(query.format(table)))
                assert {row.name: row.setting for row in rows} == shown
        await engine.dispose()


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://ann@/app?host=/cloudsql/p:r:i/.s.PGSQL.5432", (("/cloudsql/p:r:i", 5432),)),
        ("postgres://ann@/app?host=/cloudsql/p:r:i", (("/cloudsql/p:r:i", 5432),)),
        ("postgres://ann@/app?host=/run/.s.PGSQL.6432", (("/run", 6432),)),
        ("postgres://ann@/app?host=/a/.s.PGSQL.5433,/b", (("/a", 5433), ("/b", 5432))),
        ("postgres://ann@/app?host=a,%20b", (("a", 5432), ("b", 5432))),
    ],
)
def test_the_file_of_a_socket_means_its_folder(
    url: str, hosts: tuple[tuple[str, int], ...]
) -> None:
    target = parse_url(url, VARIABLE)
    assert target.hosts == hosts
    runtime, migration = target.runtime()[1], target.migration()[1]
    assert list(zip(runtime["host"], runtime["port"], strict=True)) == list(hosts)
    assert migration["host"] == ",".join(host for host, _ in hosts)
    assert migration["port"] == ",".join(str(port) for _, port in hosts)


@pytest.mark.parametrize(
    ("query", "advice"),
    [
        ("search_path=shop", "ALTER ROLE … SET search_path"),
        ("currentSchema=shop", "ALTER ROLE … SET search_path"),
        ("schema=shop", "ALTER ROLE … SET search_path"),
        ("statement_timeout=5", "APP_DATABASE_STATEMENT_TIMEOUT_SECONDS"),
        ("lock_timeout=5", "APP_DATABASE_LOCK_TIMEOUT_SECONDS"),
        ("idle_in_transaction_session_timeout=5", "APP_DATABASE_IDLE_IN_TRANSACTION_TIMEOUT"),
        ("options=-c%20statement_timeout%3D5s", "APP_DATABASE_STATEMENT_TIMEOUT_SECONDS"),
        ("options=-clock_timeout%3D5s", "APP_DATABASE_LOCK_TIMEOUT_SECONDS"),
        ("options=--statement-timeout%3D5s", "APP_DATABASE_STATEMENT_TIMEOUT_SECONDS"),
        ("unix_sock=/cloudsql/p:r:i/.s.PGSQL.5432", "?host=/folder"),
        ("socketTimeout=5", "APP_DATABASE_STATEMENT_TIMEOUT_SECONDS"),
        ("pool_size=5", "APP_DATABASE_POOL_SIZE"),
    ],
)
def test_an_option_of_another_driver_gets_advice_by_name(query: str, advice: str) -> None:
    said = refusal(f"postgres://ann:s3cret@db/app?{query}")
    assert said.startswith(VARIABLE)
    assert advice in said
    assert query.partition("%3D")[0].split("=")[0] in said


@pytest.mark.parametrize("options", ["-c%20deadlock_timeout%3D5s", "-c%20search_path%3Dshop"])
def test_options_that_no_setting_sends_reach_both_drivers(options: str) -> None:
    target = parse_url(f"postgres://db/app?options={options}", VARIABLE)
    sent = target.runtime()[1]["server_settings"]["options"]
    assert sent == target.migration()[1]["options"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///file:data/app.db?mode=ro&uri=true", "a SQLite file URI"),
        ("sqlite:///file:app.db", "a SQLite file URI"),
        ("sqlite+aiosqlite:///file:app.db?cache=shared&uri=true", "a SQLite file URI"),
        ("sqlite:///file::memory:?cache=shared", "an in-memory SQLite database"),
        ("sqlite:///~/app.db", "write the whole path"),
        ('"sqlite:///app.db"', "remove the quotation marks"),
        ("'postgresql://db/app'", "remove the quotation marks"),
        ("\u201cpostgresql://db/app\u201d", "remove the quotation marks"),
        ("postgresql://ann:s3cret\n@db/app", "has a line break"),
        ("sqlite:///data\tapp.db", "has a line break or another control character"),
    ],
)
def test_what_is_no_database_says_what_it_is(url: str, says: str) -> None:
    said = refusal(url)
    assert said.startswith(f"{VARIABLE}: {says}")
    assert "s3cret" not in said


async def test_the_file_of_a_socket_connects_both_drivers(
    settings: DatabaseSettings, tmp_path: Path
) -> None:
    only_on("postgres", settings)
    target = settings.database_target
    [(folder, port)] = target.hosts
    if not folder.startswith("/"):
        pytest.skip("this server was named by its address")
    file = f"{folder}/.s.PGSQL.{port}"
    url = f"postgres://{target.url.username}@/{target.url.database}?host={quote(file)}"
    given = DatabaseSettings(database_url=SecretStr(url))
    with written(tmp_path) as depot:
        depot.add("1", "op.create_table('bin', sa.Column('id', sa.Integer, primary_key=True))")
        upgrade(depot.package, given)
    engine = create_database_engine(given)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM bin")) == 0
    await engine.dispose()
