"""DatabaseSettings: which variable decides, where values come from, and that no secret is shown."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from chassis_stock import register_dialect
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError

from chassis.db import DatabaseSettings

URL = "APP_DATABASE_URL"
BACKEND = "APP_DATABASE_BACKEND"
PASSWORD = "APP_DATABASE_POSTGRES_PASSWORD"
FILE = "APP_DATABASE_POSTGRES_PASSWORD_FILE"
HOST = "APP_DATABASE_POSTGRES_HOST"
SQLITE = "APP_DATABASE_SQLITE_PATH"
PLATFORM = "DATABASE_URL"
SECRET = "s3cret"


def from_environment(variables: Mapping[str, str]) -> DatabaseSettings:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return DatabaseSettings(secrets_dir=Path.cwd() / "secrets")


def write_secret(name: str, value: str) -> None:
    folder = Path("secrets")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(value, encoding="utf-8")


def refusal(variables: Mapping[str, str]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        from_environment(variables)
    return caught.value


@pytest.mark.parametrize(
    ("variables", "masked", "chosen_by"),
    [
        ({}, "sqlite:///data/app.db", SQLITE),
        ({SQLITE: "x.db"}, "sqlite:///x.db", SQLITE),
        ({PLATFORM: "postgres://p/p"}, "postgresql://p:5432/p", PLATFORM),
        ({PLATFORM: "sqlite:///p.db", SQLITE: "x.db"}, "sqlite:///p.db", PLATFORM),
        ({BACKEND: "sqlite", PLATFORM: "postgres://p/p"}, "sqlite:///data/app.db", SQLITE),
        (
            {BACKEND: "postgres", PASSWORD: "pw", PLATFORM: "postgres://p/p"},
            "postgresql://postgres@localhost:5432/app",
            BACKEND,
        ),
        ({PASSWORD: "pw", PLATFORM: "postgres://p/p"}, "postgresql://p:5432/p", PLATFORM),
        ({URL: "postgres://u/u", PLATFORM: "postgres://p/p"}, "postgresql://u:5432/u", URL),
        ({URL: "sqlite:///u.db", BACKEND: "postgres"}, "sqlite:///u.db", URL),
        ({URL: "postgres://u/u", BACKEND: "sqlite", SQLITE: "x"}, "postgresql://u:5432/u", URL),
        ({URL: "postgres://u/u", BACKEND: "custom"}, "postgresql://u:5432/u", URL),
        # An empty variable counts as unset.
        ({URL: "", BACKEND: "", PLATFORM: "", SQLITE: ""}, "sqlite:///data/app.db", SQLITE),
        ({URL: "", PLATFORM: "postgres://p/p"}, "postgresql://p:5432/p", PLATFORM),
        (
            {BACKEND: "postgres", PASSWORD: "pw", HOST: "", "APP_DATABASE_POSTGRES_PORT": ""},
            "postgresql://postgres@localhost:5432/app",
            BACKEND,
        ),
        (
            {
                BACKEND: "postgres",
                PASSWORD: "pw",
                HOST: "h",
                "APP_DATABASE_POSTGRES_PORT": "6432",
                "APP_DATABASE_POSTGRES_USER": "ann",
                "APP_DATABASE_POSTGRES_NAME": "shop",
            },
            "postgresql://ann@h:6432/shop",
            BACKEND,
        ),
    ],
)
def test_the_first_that_is_set_decides(
    variables: dict[str, str], masked: str, chosen_by: str
) -> None:
    target = from_environment(variables).database_target

    assert (target.masked, target.chosen_by) == (masked, chosen_by)


def test_the_order_is_the_same_whatever_the_source() -> None:
    Path(".env").write_text(f"{URL}=sqlite:///dotenv.db\n")
    shell = {PLATFORM: "postgres://platform/app"}
    assert from_environment(shell).database_target.masked == "sqlite:///dotenv.db"

    Path(".env").unlink()
    write_secret("app_database_url", "sqlite:///secret.db")
    assert from_environment(shell).database_target.masked == "sqlite:///secret.db"


@pytest.mark.parametrize("key", ["env_prefix", "env_file", "case_sensitive"])
def test_a_second_database_has_no_variables_of_its_own(key: str) -> None:
    with pytest.raises(
        TypeError, match=rf"Reports\.model_config changes {key}.*second database by"
    ):
        type("Reports", (DatabaseSettings,), {"model_config": {key: "REPORTS_"}})


def test_the_environment_beats_dotenv_and_dotenv_beats_secret_files() -> None:
    write_secret("app_database_url", "sqlite:///secret.db")
    assert from_environment({}).database_target.masked == "sqlite:///secret.db"

    Path(".env").write_text(f"{URL}=sqlite:///dotenv.db\n")
    assert from_environment({}).database_target.masked == "sqlite:///dotenv.db"

    shell = {URL: "sqlite:///shell.db"}
    assert from_environment(shell).database_target.masked == "sqlite:///shell.db"


def test_a_platforms_url_is_not_read_from_a_file() -> None:
    write_secret("database_url", "postgres://secret/app")
    assert from_environment({}).database_target.masked == "sqlite:///data/app.db"


def test_the_field_of_the_platforms_url_has_no_variable_of_its_own() -> None:
    Path(".env").write_text("APP_DATABASE_PLATFORM_URL=postgres://dotenv/app\n")
    write_secret("app_database_platform_url", "postgres://secret/app")
    shell = {"APP_DATABASE_PLATFORM_URL": "postgres://shell/app"}

    assert from_environment(shell).database_target.masked == "sqlite:///data/app.db"


@pytest.mark.parametrize("name", ["app_database_url", "APP_DATABASE_URL"])
def test_a_secret_file_is_named_like_its_variable(name: str) -> None:
    write_secret(name, "postgres://ann:s3cret@h/app\n")

    assert from_environment({}).database_target.url.password == SECRET


def test_the_folder_of_secret_files_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write_secret("app_database_url", "sqlite:///secret.db")
    monkeypatch.setenv("APP_SECRETS_DIR", "secrets")
    assert DatabaseSettings().database_target.masked == "sqlite:///secret.db"

    monkeypatch.setenv("APP_SECRETS_DIR", "missing")
    assert DatabaseSettings().database_target.masked == "sqlite:///data/app.db"


def test_an_empty_secret_file_is_an_error() -> None:
    write_secret("app_database_url", "\n")

    with pytest.raises(SettingsError) as caught:
        from_environment({})

    assert str(caught.value).startswith("APP_DATABASE_URL: its file in ")


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_password_file_is_the_password_without_its_line_break(ending: str) -> None:
    Path("password").write_bytes(f" pa ss\u00e9 {ending}".encode())

    target = from_environment({BACKEND: "postgres", FILE: "password"}).database_target

    assert target.runtime()[0].password == target.migration()[0].password == " pa ss\u00e9 "


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({BACKEND: "mysql"}, "'sqlite', 'postgres' or 'custom'"),
        ({BACKEND: "postgres"}, f"{PASSWORD}: PostgreSQL needs a password; set it, or {FILE}"),
        ({BACKEND: "postgres", PASSWORD: ""}, f"{PASSWORD}: PostgreSQL needs a password"),
        ({BACKEND: "postgres", FILE: "missing"}, f"{FILE}: the file can't be read"),
        ({BACKEND: "postgres", FILE: "."}, f"{FILE}: the file can't be read"),
        ({BACKEND: "postgres", FILE: os.devnull}, f"{FILE}: the file is empty"),
        (
            {BACKEND: "postgres", FILE: os.devnull, PASSWORD: SECRET},
            f"{FILE}: the password is set as well; keep one of them",
        ),
        ({BACKEND: "custom", PASSWORD: SECRET}, f"{URL}: APP_DATABASE_BACKEND=custom needs it"),
        ({URL: f"postgres://ann:{SECRET}@h:x/app"}, f"{URL}: the port is not a number"),
        ({PLATFORM: f"postgres://ann:{SECRET}@h:x/app"}, f"{PLATFORM}: the port is not a number"),
        ({URL: f"postgres://ann:{SECRET}@h/app?nope=1"}, f"{URL}: unknown option"),
        ({URL: "sqlite://"}, f"{URL}: an in-memory SQLite database can't be used"),
        ({SQLITE: ":memory:"}, f"{SQLITE}: an in-memory SQLite database can't be used"),
        (
            {"APP_ALEMBIC_DATABASE_URL": f"ann:{SECRET}"},
            "APP_ALEMBIC_DATABASE_URL: not a URL",
        ),
        (
            {"APP_DATABASE_READ_URL": f"postgres://ann:{SECRET}@h/app"},
            "APP_DATABASE_READ_URL: only PostgreSQL has replicas",
        ),
        (
            {BACKEND: "postgres", PASSWORD: SECRET, "APP_DATABASE_POSTGRES_PORT": "http"},
            "database_postgres_port",
        ),
    ],
)
def test_a_wrong_setting_is_named_and_no_secret_is_shown(
    variables: dict[str, str], message: str
) -> None:
    error = refusal(variables)

    assert message in str(error)
    for shown in (str(error), repr(error), str(error.errors()), error.json()):
        assert SECRET not in shown
    assert error.__cause__ is None


def test_settings_show_no_secret() -> None:
    settings = from_environment(
        {
            URL: f"postgres://ann:{SECRET}@h/app?application_name={SECRET}",
            PLATFORM: f"postgres://ann:{SECRET}@h/app",
            PASSWORD: SECRET,
            "APP_ALEMBIC_DATABASE_URL": f"postgres://ann:{SECRET}@h/app",
            "APP_DATABASE_READ_URL": f"postgres://ann:{SECRET}@h/app",
        }
    )

    target = settings.database_target
    assert target.url.password == SECRET
    for shown in (
        *(str(settings), repr(settings), str(settings.model_dump()), settings.model_dump_json()),
        *(settings.describe_database(), str(target), repr(target), str(target.url)),
        repr(settings.__pydantic_private__),
    ):
        assert SECRET not in shown


@pytest.mark.parametrize("host", ["/run/postgresql", "/run/a,/run/b"])
def test_a_socket_folder_needs_no_password(host: str) -> None:
    target = from_environment({BACKEND: "postgres", HOST: host}).database_target

    assert target.url.password is None
    assert target.hosts[0] == (host.partition(",")[0], 5432)


def test_a_parameter_in_the_url_beats_the_field() -> None:
    sslmode = "APP_DATABASE_POSTGRES_SSLMODE"
    settings = from_environment({URL: "postgres://h/app?sslmode=require", sslmode: "disable"})
    assert settings.database_target.migration()[1]["sslmode"] == "require"

    settings = from_environment({URL: "postgres://h/app", sslmode: "disable"})
    assert settings.database_target.migration()[1]["sslmode"] == "disable"


def test_a_replica_and_a_direct_url_for_migrations_have_targets_of_their_own() -> None:
    settings = from_environment(
        {
            URL: "postgres://pooler/app?pgbouncer=true",
            "APP_DATABASE_READ_URL": "postgres://replica/app",
            "APP_ALEMBIC_DATABASE_URL": "postgres://direct/app",
        }
    )

    assert settings.database_target.hosts == (("pooler", 5432),)
    assert settings.database_read_target.hosts == (("replica", 5432),)
    assert settings.database_migration_target.hosts == (("direct", 5432),)


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        (
            {SQLITE: "x.db"},
            f"{SQLITE} is not read, because DATABASE_URL is set; set {BACKEND}=sqlite",
        ),
        ({HOST: "db"}, f"{HOST} is not read, because DATABASE_URL is set; set {BACKEND}=postgres"),
        ({SQLITE: "x.db", BACKEND: "sqlite"}, None),
        ({"APP_DATABASE_POSTGRES_SSLMODE": "require"}, None),
        ({}, None),
    ],
)
def test_what_names_another_database_than_the_platforms_is_a_warning(
    variables: dict[str, str], warned: str | None
) -> None:
    warnings = from_environment({"DATABASE_URL": "postgres://h/app", **variables}).database_warnings
    assert [line.startswith(warned or "?") for line in warnings] == [True] * bool(warned)


def test_a_url_of_another_dialect_is_named_where_it_cant_be_migrated() -> None:
    register_dialect()
    error = str(refusal({"DATABASE_URL": "depot+aiosqlite:///app.db"}))
    assert "DATABASE_URL names one (depot)" in error


def test_a_custom_database_needs_a_url_for_migrations() -> None:
    register_dialect()
    custom = {BACKEND: "custom", URL: "depot+aiosqlite:///app.db"}
    assert "APP_ALEMBIC_DATABASE_URL: a custom database needs it" in str(refusal(custom))

    settings = from_environment({**custom, "APP_ALEMBIC_DATABASE_URL": "depot:///app.db"})
    assert settings.database_target.backend == "custom"
    assert settings.database_migration_target.migration()[0].drivername == "depot"


def test_the_description_names_target_variable_and_pools() -> None:
    line = from_environment({URL: f"postgres://ann:{SECRET}@h/app"}).describe_database()
    assert "postgresql://ann@h:5432/app" in line
    assert "chosen by APP_DATABASE_URL" in line
    assert "5 + 0 write, 10 read" in line


def test_the_description_says_which_pool_settings_sqlite_ignores() -> None:
    line = from_environment({}).describe_database()
    assert "(sqlite, by default)" in line
    assert "does not apply" not in line

    line = from_environment({"APP_DATABASE_POOL_SIZE": "20"}).describe_database()
    assert "connections: 1 write, 2 read; APP_DATABASE_POOL_SIZE does not apply" in line

    line = from_environment({"APP_DATABASE_SQLITE_PATH": "app.db"}).describe_database()
    assert "(sqlite, chosen by APP_DATABASE_SQLITE_PATH)" in line


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = from_environment({})

    with pytest.raises(ValidationError):
        settings.database_url = SecretStr("sqlite:///other.db")


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        ({PASSWORD: SECRET, HOST: "db", SQLITE: "app.db"}, True),
        ({HOST: "db", URL: "sqlite:///app.db"}, True),
        ({HOST: "db", BACKEND: "sqlite"}, False),
        ({HOST: "db", PASSWORD: SECRET, BACKEND: "postgres"}, False),
        ({HOST: "db", URL: "postgres://db/app"}, False),
        ({}, False),
    ],
)
def test_fields_of_a_server_beside_a_sqlite_file_are_a_warning(
    variables: dict[str, str], warned: bool
) -> None:
    warnings = from_environment(variables).database_warnings
    expected = f"{HOST} is not read without {BACKEND}=postgres"
    assert warnings == ((expected,) if warned else ())
