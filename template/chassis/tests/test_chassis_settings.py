"""ChassisSettings: where values come from, who may change them, what a wrong one leads to."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AliasChoices, BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from chassis import ChassisSettings
from chassis.commands.variables import explain, find_warnings
from chassis.db import DatabaseSettings

MARKED = "s3cret-value"


class Billing(BaseModel):
    currency: str = "EUR"


class Settings(ChassisSettings):
    """What a service might add."""

    model_config = SettingsConfigDict(env_nested_delimiter="__")

    billing_key: SecretStr | None = None
    billing: Billing = Billing()
    allowed_hosts: list[str] = Field(default=[])
    rate: Annotated[float, Field(gt=0)] = 1.0
    token: Annotated[str, Field(validation_alias=AliasChoices("APP_API_TOKEN", "API_TOKEN"))] = ""


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({}, 8000),
        ({"PORT": "9001"}, 9001),
        ({"APP_SERVER_PORT": "9002", "PORT": "9001"}, 9002),
        ({"APP_SERVER_PORT": "8000", "PORT": "9001"}, 8000),
        ({"APP_SERVER_PORT": "", "PORT": "9001"}, 9001),
        ({"APP_SERVER_PORT": "", "PORT": ""}, 8000),
    ],
)
def test_the_port_is_ours_then_the_platforms_then_8000(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], port: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings().server_port == port


def test_a_platforms_port_is_not_read_from_dotenv() -> None:
    Path(".env").write_text("PORT=9001\n")
    assert Settings().server_port == 8000


def test_a_log_level_may_be_written_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LOG_LEVEL", "debug")
    assert Settings().log_level == "DEBUG"


@pytest.mark.parametrize("value", ["0.0.0.0", "::", "::1", "fe80::1%eth0", "localhost", "a-b.c"])
def test_a_host_is_an_address_or_a_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("APP_SERVER_HOST", value)
    assert Settings().server_host == value


@pytest.mark.parametrize("value", ["[::]", "[::1]:8000", "0.0.0.0:80", "http://a", "a b", "::x"])
def test_a_host_that_cant_be_listened_on_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("APP_SERVER_HOST", value)
    assert "APP_SERVER_HOST: must be an address or a name, without" in explanation_of(Settings)


@pytest.mark.parametrize("value", ["127.0.0.1", "10.0.0.0/8, ::1", "*"])
def test_trusted_proxies_are_addresses_networks_or_everyone(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("APP_SERVER_TRUSTED_PROXIES", value)
    assert Settings().server_trusted_proxies == value


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("App.example.com, *.Example.org", ("app.example.com", "*.example.org")),
        ("localhost 127.0.0.1 [::1]", ("localhost", "127.0.0.1", "[::1]")),
        ("*", ("*",)),
    ],
)
def test_allowed_hosts_are_names_in_lower_case(
    monkeypatch: pytest.MonkeyPatch, value: str, hosts: tuple[str, ...]
) -> None:
    monkeypatch.setenv("APP_HTTP_ALLOWED_HOSTS", value)
    assert Settings().http_allowed_hosts == hosts


@pytest.mark.parametrize(
    "value",
    ["https://a.example", '["a.example"]', "a.example:8000", "a.example/", ".example", "a*"],
)
def test_a_host_that_no_request_has_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("APP_HTTP_ALLOWED_HOSTS", value)
    assert "APP_HTTP_ALLOWED_HOSTS: must be hosts with commas" in explanation_of(Settings)


@pytest.mark.parametrize(
    "issuer",
    [
        *("https://login.example.com", "https://login.example.com/", "https://a.b:8443/realms/x"),
        *("http://localhost:8080/realms/x", "http://127.0.0.1:8080", "http://[::1]:8080"),
    ],
)
def test_an_issuer_is_kept_as_it_is_written(monkeypatch: pytest.MonkeyPatch, issuer: str) -> None:
    monkeypatch.setenv("APP_AUTH_ISSUER", issuer)
    monkeypatch.setenv("APP_AUTH_AUDIENCE", "shop, https://shop.example.com")
    settings = Settings()
    assert settings.auth_issuer == issuer
    assert settings.auth_audience == ("shop", "https://shop.example.com")


@pytest.mark.parametrize(
    "issuer",
    [
        *("login.example.com", "http://login.example.com", "ftp://login.example.com"),
        *("file:///etc/passwd", "http://localhost.evil.com", "https://user:pw@login.example.com"),
        *(
            "https://login.example.com?x=1",
            "https://login.example.com#a",
            "https://a b",
            "https://",
        ),
    ],
)
def test_an_issuer_that_others_may_answer_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, issuer: str
) -> None:
    monkeypatch.setenv("APP_AUTH_ISSUER", issuer)
    assert "APP_AUTH_ISSUER: must be the issuer exactly as tokens have" in explanation_of(Settings)


@pytest.mark.parametrize("url", ["https://a.b/keys?p=1", "http://localhost/k", "file:///keys.json"])
def test_keys_may_have_an_address_of_their_own_or_a_file(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("APP_AUTH_ISSUER", "https://login.example.com")
    monkeypatch.setenv("APP_AUTH_AUDIENCE", "shop")
    monkeypatch.setenv("APP_AUTH_JWKS_URL", url)
    assert Settings().auth_jwks_url == url


@pytest.mark.parametrize(
    "url", ["http://a.b/keys", "https://a.b", "https://u:p@a.b/k", "file:keys", "data:,{}", "keys"]
)
def test_an_address_of_keys_that_others_may_answer_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("APP_AUTH_JWKS_URL", url)
    assert "APP_AUTH_JWKS_URL: must be an https:// URL with a path" in explanation_of(Settings)


@pytest.mark.parametrize("value", ["HS256", "none", "RS256,HS512", "rs256", "RS256 None", ","])
def test_an_algorithm_whose_signature_anybody_can_make_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("APP_AUTH_ALGORITHMS", value)
    assert "APP_AUTH_ALGORITHMS: must be of RS256, RS384" in explanation_of(Settings)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("APP_AUTH_ISSUER", "https://a.b", "APP_AUTH_AUDIENCE: APP_AUTH_ISSUER needs it"),
        ("APP_AUTH_AUDIENCE", "shop", "APP_AUTH_AUDIENCE: is not read without APP_AUTH_ISSUER"),
        ("APP_AUTH_JWKS_URL", "https://a.b/keys", "APP_AUTH_JWKS_URL: is not read without APP_AUT"),
    ],
)
def test_an_issuer_and_its_audience_are_set_together(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    assert line in explanation_of(Settings)


@pytest.mark.parametrize("name", ["database_pool_size", "alembic_database_url", "secrets_dir"])
def test_a_service_cant_redefine_what_migrations_read(name: str) -> None:
    kept = ChassisSettings.model_fields[name].annotation
    with pytest.raises(TypeError, match=f"Changed.{name} .* set APP_{name.upper()}"):
        type("Changed", (ChassisSettings,), {"__annotations__": {name: kept}, name: None})


def test_a_mixin_cant_either() -> None:
    class Mixin(BaseSettings):
        database_url: SecretStr | None = SecretStr("sqlite:///other.db")

    with pytest.raises(TypeError, match=r"Changed\.database_url "):
        type("Changed", (Mixin, ChassisSettings), {})


def test_a_service_cant_give_a_setting_another_type() -> None:
    with pytest.raises(TypeError, match=r"Changed\.server_workers .* another name"):
        type("Changed", (ChassisSettings,), {"__annotations__": {"server_workers": str}})


def test_a_service_may_give_a_setting_another_default() -> None:
    class Changed(ChassisSettings):
        server_drain_seconds: float = 3

    assert Changed().server_drain_seconds == 3


@pytest.mark.parametrize("key", ["env_prefix", "env_file"])
def test_a_service_cant_read_other_variables_than_migrations_do(key: str) -> None:
    with pytest.raises(TypeError, match=f"Changed.model_config changes {key}"):
        type("Changed", (ChassisSettings,), {"model_config": {key: "OTHER_"}})


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("APP_SERVER_PORT", "http", "APP_SERVER_PORT: must be a whole number"),
        ("APP_SERVER_PORT", "70000", "APP_SERVER_PORT: must be less than or equal to 65535"),
        ("PORT", "http", "PORT: must be a whole number"),
        ("APP_SERVER_WORKERS", "0", "APP_SERVER_WORKERS: must be greater than or equal to 1"),
        ("APP_SERVER_DRAIN_SECONDS", "5s", "APP_SERVER_DRAIN_SECONDS: must be a number"),
        ("APP_RATE", "0", "APP_RATE: must be greater than 0"),
        ("APP_DOCS_ENABLED", "maybe", "APP_DOCS_ENABLED: must be true or false"),
        ("APP_LOG_LEVEL", "loud", "APP_LOG_LEVEL: must be 'DEBUG', 'INFO', 'WARNING'"),
        ("APP_DATABASE_BACKEND", "mysql", "APP_DATABASE_BACKEND: must be 'sqlite', 'postgres'"),
        ("APP_DATABASE_BACKEND", "postgres", "APP_DATABASE_POSTGRES_PASSWORD: PostgreSQL needs"),
        ("APP_SERVER_TRUSTED_PROXIES", "proxy", "APP_SERVER_TRUSTED_PROXIES: must be addresses"),
    ],
)
def test_an_error_names_the_variable_and_how_to_set_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("APP_BILLING_KEY", MARKED)
    heading, *lines = explanation_of(Settings).splitlines()
    assert heading == "the settings are not valid"
    assert [one.strip().startswith(line) for one in lines] == [True]


def test_a_value_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_ALLOWED_HOSTS", MARKED)
    assert explanation_of(Settings) == 'APP_ALLOWED_HOSTS: must be JSON, such as ["a", "b"]'


def test_an_error_shows_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(Settings):
        required: int

    for name in ("APP_SERVER_PORT", "APP_DATABASE_URL", "APP_LOG_LEVEL", "APP_RATE"):
        monkeypatch.setenv(name, MARKED)
    monkeypatch.setenv("APP_BILLING", f'{{"currency": ["{MARKED}"]}}')
    message = explanation_of(Strict)
    assert "APP_REQUIRED: must be set, it has no default" in message
    assert "APP_BILLING: must be a valid string" in message
    assert MARKED not in message


def test_an_empty_secret_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "app_billing_key").write_text("")
    monkeypatch.setenv("APP_SECRETS_DIR", str(tmp_path))
    assert "APP_BILLING_KEY: its file" in explanation_of(Settings)


def test_an_unknown_variable_is_named_with_its_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABSE_URL", MARKED)
    monkeypatch.setenv("app_zzzz", MARKED)
    Path(".env").write_text(f"APP_BILING_KEY={MARKED}\nOTHER={MARKED}\nAPP_EMPTY=\n")
    assert list(find_warnings(Settings)) == [
        "APP_BILING_KEY in .env is not a setting of this service and is ignored; "
        "did you mean APP_BILLING_KEY?",
        "APP_DATABSE_URL is not a setting of this service and is ignored; "
        "did you mean APP_DATABASE_URL?",
        "APP_ZZZZ is not a setting of this service and is ignored",
    ]


def test_known_variables_are_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APP_BILLING_KEY", "APP_BILLING__CURRENCY", "APP_API_TOKEN", "APP_LOG_LEVEL"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///app.db")
    monkeypatch.setenv("PORT", "9001")
    Path(".env").write_text("DATABASE_URL=sqlite:///other.db\nAPP_DATABASE_ECHO=true\n")
    assert list(find_warnings(Settings)) == []


def test_a_platforms_variable_in_dotenv_is_named() -> None:
    Path(".env").write_text(
        f"DATABASE_URL=postgres://{MARKED}\nPORT=9001\nAPP_DATABASE_SQLITE_PATH=data/app.db\n"
    )
    assert list(find_warnings(Settings)) == [
        "DATABASE_URL in .env is not read; name it APP_DATABASE_URL",
        "PORT in .env is not read; name it APP_SERVER_PORT",
    ]
    assert Settings().database_target.chosen_by == DatabaseSettings().database_target.chosen_by


def explanation_of(settings: type[ChassisSettings]) -> str:
    try:
        settings()
    except (ValidationError, SettingsError) as error:
        return explain(error, settings)
    pytest.fail("the settings are valid")
