"""The sources of settings: line breaks, quotation marks, secret files and Kubernetes' variables."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, SecretStr
from pydantic_settings import SettingsConfigDict, SettingsError

from chassis import ChassisSettings
from chassis.commands.variables import find_warnings, source_of

URL = "APP_DATABASE_URL"
SERVER = "APP_SERVER_PORT"
POSTGRES = {
    "APP_DATABASE_BACKEND": "postgres",
    "APP_DATABASE_POSTGRES_HOST": "db",
    "APP_DATABASE_POSTGRES_USER": "ann",
    "APP_DATABASE_POSTGRES_PASSWORD": "s3cret",
    "APP_DATABASE_POSTGRES_NAME": "shop",
}


class Billing(BaseModel):
    currency: str = "EUR"
    rates: list[int] = []


class Settings(ChassisSettings):
    """What a service might add."""

    model_config = SettingsConfigDict(env_nested_delimiter="__")

    billing: Billing = Billing()
    billing_key: SecretStr | None = None
    broker_port: str = ""
    greeting: str = ""
    hosts: list[str] | None = None
    relay_port: int | None = None
    token: Annotated[str, Field(validation_alias=AliasChoices("APP_API_TOKEN", "api_token"))] = ""
    first: Annotated[int, Field(validation_alias=AliasPath("NUMBERS", 0))] = 0


def write(place: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put texts into the environment, into `.env` or into secret files."""
    match place:
        case "environment":
            for name, text in variables.items():
                monkeypatch.setenv(name, text)
        case ".env":
            lines = [f"{name}='{text}'\n" for name, text in variables.items()]
            Path(".env").write_text("".join(lines), encoding="utf-8", newline="")
        case _:
            Path("secrets").mkdir()
            for name, text in variables.items():
                Path("secrets", name.lower()).write_bytes(text.encode())
            monkeypatch.setenv("APP_SECRETS_DIR", "secrets")


PLACES = ("environment", ".env", "a file in secrets")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("place", PLACES)
def test_a_line_break_at_the_end_is_no_part_of_any_value(
    place: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"APP_GREETING": " a\nb ", "APP_HOSTS": '["x"]', "APP_API_TOKEN": "t", "NUMBERS": "[7]"}
    given = {SERVER: "9000", "APP_LOG_FORMAT": "json", **POSTGRES, **own}
    write(place, {name: f"{text}{ending}" for name, text in given.items()}, monkeypatch)
    settings = Settings()
    assert settings.database_target.masked == "postgresql://ann@db:5432/shop"
    assert settings.database_target.url.password == "s3cret"
    assert (settings.server_port, settings.log_format) == (9000, "json")
    assert (settings.greeting, settings.token) == (" a\nb ", "t")
    assert (settings.hosts, settings.first) == (["x"], 7)
    assert source_of(settings, "greeting") == source_of(settings, "token") == place


def test_parts_of_a_nested_setting_are_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    write("environment", {"APP_BILLING__CURRENCY": "CHF\n"}, monkeypatch)
    write(".env", {"APP_BILLING__RATES": "[1, 2]"}, monkeypatch)
    assert Settings().billing == Billing(currency="CHF", rates=[1, 2])


def test_nothing_but_a_line_break_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    write(".env", {URL: "sqlite:///dotenv.db"}, monkeypatch)
    write("environment", {URL: "\n", "DATABASE_URL": "\n", "PORT": "\n"}, monkeypatch)
    assert Settings().database_target.masked == "sqlite:///dotenv.db"
    assert Settings().server_port == 8000


def test_a_platforms_variables_may_end_in_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    write("environment", {"DATABASE_URL": "postgres://db/shop\n", "PORT": "9001\n"}, monkeypatch)
    assert Settings().database_target.masked == "postgresql://db:5432/shop"
    assert Settings().server_port == 9001


@pytest.mark.parametrize("name", ["port", "database_url"])
def test_a_platforms_variable_is_named_exactly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write("environment", {name: "9001"}, monkeypatch)
    assert Settings().server_port == 8000
    assert Settings().database_target.backend == "sqlite"


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'", "\u201c{}\u201d"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (URL, "sqlite:///x.db"),
        ("APP_DATABASE_SQLITE_PATH", "x.db"),
        ("APP_DATABASE_POSTGRES_HOST", "db"),
        (SERVER, "8000"),
        ("APP_GREETING", "hello"),
        ("APP_HOSTS", '["x"]'),
        ("DATABASE_URL", "sqlite:///x.db"),
    ],
)
def test_quotation_marks_around_a_value_are_named(
    name: str, text: str, quoted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("environment", {name: quoted.format(text)}, monkeypatch)
    with pytest.raises(ValueError, match=f"{name}: remove the quotation marks"):
        Settings()


def test_a_secret_may_have_quotation_marks_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("environment", {"APP_BILLING_KEY": '"s3cret"'}, monkeypatch)
    key = Settings().billing_key
    assert key is not None
    assert key.get_secret_value() == '"s3cret"'
    [warning] = find_warnings(Settings)
    assert warning.startswith("APP_BILLING_KEY has quotation marks around it; remove them")


@pytest.mark.parametrize("name", ["app_server_port", "App_Server_Port"])
def test_two_spellings_of_a_variable_agree_or_are_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("environment", {SERVER: "9000", name: "9000"}, monkeypatch)
    assert Settings().server_port == 9000
    write("environment", {name: "9001"}, monkeypatch)
    with pytest.raises(SettingsError, match=f"{SERVER} is set twice"):
        Settings()


def test_a_secret_file_that_cant_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a file in secrets", {"APP_GREETING": "hello"}, monkeypatch)
    Path("secrets", "app_billing_key").mkdir()
    with pytest.raises(SettingsError, match=r"^APP_BILLING_KEY: its file in secrets can't be read"):
        Settings()


@pytest.mark.parametrize(
    ("service", "variables"),
    [
        ("app-server", {SERVER: "tcp://10.0.0.1:80", "APP_SERVER_PORT_80_TCP_PROTO": "tcp"}),
        ("app-server", {SERVER: "udp://[fd00::1]:80", "APP_SERVER_SERVICE_PORT_HTTP": "80"}),
        ("app-metrics", {"APP_METRICS_PORT": "tcp://10.0.0.1:90"}),
        ("app-relay", {"APP_RELAY_PORT": "tcp://10.0.0.1:90", "APP_RELAY_SERVICE_HOST": "x"}),
        ("app-database-postgres", {"APP_DATABASE_POSTGRES_PORT": "tcp://10.0.0.1:5432"}),
        ("app", {"APP_PORT": "tcp://10.0.0.1:80", "APP_PORT_80_TCP": "tcp://10.0.0.1:80"}),
    ],
)
def test_what_kubernetes_sets_for_a_service_is_ignored_with_one_warning(
    service: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unset = Settings().model_dump()
    write("environment", variables, monkeypatch)
    assert Settings().model_dump() == unset
    [warning] = find_warnings(Settings)
    assert f"for the Service {service} are ignored" in warning
    assert "enableServiceLinks: false" in warning


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (SERVER, "tcp://0.0.0.0:8000"),
        (SERVER, "tcp://127.0.0.1:8000"),
        (SERVER, "tcp://server:8000"),
        (SERVER, "http://10.0.0.1:8000"),
        ("APP_METRICS_PORT", "10.0.0.1:8000"),
    ],
)
def test_what_a_person_may_have_set_is_never_ignored(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("environment", {name: text}, monkeypatch)
    with pytest.raises(ValueError, match=f"{name.lower()[4:]}\\n"):
        Settings()


def test_a_setting_that_takes_any_text_keeps_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    write("environment", {"APP_BROKER_PORT": "tcp://10.0.0.1:90"}, monkeypatch)
    assert Settings().broker_port == "tcp://10.0.0.1:90"


def test_two_fields_may_share_the_variable_that_kubernetes_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Both(ChassisSettings):
        cache_port: Annotated[int, Field(validation_alias="REDIS_PORT")] = 1
        queue_port: Annotated[int, Field(validation_alias="REDIS_PORT")] = 2

    write("environment", {"REDIS_PORT": "tcp://10.0.0.1:6379"}, monkeypatch)
    assert (Both().cache_port, Both().queue_port) == (1, 2)


def test_dotenv_is_nobodys_but_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    write(".env", {SERVER: "tcp://10.0.0.1:80"}, monkeypatch)
    with pytest.raises(ValueError, match="server_port"):
        Settings()


def test_other_files_can_be_named_in_code_and_are_read_as_strictly() -> None:
    Path(".env").write_text("APP_GREETING=dotenv\nAPP_SERVER_PORT=9000\n")
    Path("other.env").write_text("APP_GREETING='${x}'\n")
    settings = Settings(_env_file="other.env")  # type: ignore[call-arg]
    assert (settings.greeting, settings.server_port) == ("${x}", 8000)
    assert Settings(_env_file=None).greeting == ""  # type: ignore[call-arg]
    Path("other.env").write_text("APP_GREETING: hello\n")
    with pytest.raises(SettingsError, match=r"^other\.env, line 1: is no assignment"):
        Settings(_env_file="other.env")  # type: ignore[call-arg]


@pytest.mark.parametrize("key", ["case_sensitive", "env_prefix_target"])
def test_a_service_cant_read_its_variables_otherwise_than_migrations(key: str) -> None:
    with pytest.raises(TypeError, match=f"Changed.model_config changes {key}"):
        type("Changed", (ChassisSettings,), {"model_config": {key: "all"}})
