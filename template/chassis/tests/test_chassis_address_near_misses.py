"""Variables that were meant to name the database: refused beside the default, else a warning."""

from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsError

from chassis import ChassisSettings
from chassis.commands.variables import explain, find_warnings
from chassis.db import DatabaseSettings

PASSWORD_FILE = "APP_DATABASE_POSTGRES_PASSWORD_FILE"
SECRET_FILE = "put its value into a file named app_database_url in APP_SECRETS_DIR"
MEANT = {
    "APP_DATABASE_URL_FILE": SECRET_FILE,
    "DATABASE_URL_FILE": SECRET_FILE,
    "APP_DB_URL_FILE": SECRET_FILE,
    "APP_DATABASE_POSTGRES_HOST_FILE": "put its value into a file named app_database_postgres_host",
    "APP_DB_URL": "name it APP_DATABASE_URL",
    "APP_POSTGRES_URL": "name it APP_DATABASE_URL",
    "APP_POSTGRESQL_URI": "name it APP_DATABASE_URL",
    "APP_DATABASE_DSN": "name it APP_DATABASE_URL",
    "APP_SQLALCHEMY_DATABASE_URI": "name it APP_DATABASE_URL",
    "APP_DATABSE_URL": "did you mean APP_DATABASE_URL?",
    "app_db_url": "name it APP_DATABASE_URL",
}
# Each names a database by itself.
CHOICES = {
    "APP_DATABASE_URL": "postgresql://db/shop",
    "DATABASE_URL": "postgresql://db/shop",
    "APP_DATABASE_BACKEND": "sqlite",
    "APP_DATABASE_SQLITE_PATH": "shop.db",
}
SECRET = "s3cret"


class Settings(ChassisSettings):
    """A service with a database of its own beside the chassis's."""

    postgres_url: str = ""


def write(place: str, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a variable in the environment or in `.env`."""
    if place == ".env":
        with Path(".env").open("a") as file:
            file.write(f"{name}={text}\n")
    else:
        monkeypatch.setenv(name, text)


def refusal(settings: type[DatabaseSettings]) -> str:
    with pytest.raises(SettingsError) as caught:
        settings()
    return explain(caught.value, settings)


@pytest.mark.parametrize("settings", [DatabaseSettings, ChassisSettings])
@pytest.mark.parametrize("place", ["the environment", ".env"])
@pytest.mark.parametrize("name", MEANT)
def test_a_variable_that_was_meant_for_the_database_never_leads_to_sqlite(
    name: str, place: str, settings: type[DatabaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, name, SECRET, monkeypatch)
    line = refusal(settings)
    assert line.startswith(f"{name.upper()} is not read, and nothing else names a database")
    assert MEANT[name] in line
    assert line.endswith("or set APP_DATABASE_BACKEND=sqlite if SQLite is meant")
    assert SECRET not in line
    assert "\n" not in line


@pytest.mark.parametrize("place", ["the environment", ".env"])
@pytest.mark.parametrize("field", ["HOST", "PORT", "NAME", "PASSWORD", "PASSWORD_FILE", "SSLMODE"])
def test_a_field_of_a_server_needs_the_backend_that_reads_it(
    field: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"APP_DATABASE_POSTGRES_{field}"
    write(place, name, SECRET, monkeypatch)
    line = refusal(DatabaseSettings)
    assert line.startswith(f"{name} is not read without APP_DATABASE_BACKEND=postgres: set it, ")
    assert SECRET not in line


def test_a_platforms_variable_in_dotenv_never_leads_to_sqlite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(".env", "DATABASE_URL", f"postgresql://app:{SECRET}@db/shop", monkeypatch)
    line = refusal(DatabaseSettings)
    assert line == (
        "DATABASE_URL in .env is not read, and nothing else names a database: name it "
        "APP_DATABASE_URL, or set APP_DATABASE_BACKEND=sqlite if SQLite is meant"
    )
    monkeypatch.setenv("DATABASE_URL", "postgresql://other/shop")
    assert DatabaseSettings().database_target.masked == "postgresql://other:5432/shop"


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("place", ["the environment", ".env"])
@pytest.mark.parametrize("name", MEANT)
def test_beside_a_database_that_is_named_it_is_a_warning(
    name: str, place: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, name, SECRET, monkeypatch)
    monkeypatch.setenv(choice, CHOICES[choice])
    assert ChassisSettings().database_target.chosen_by in (choice, "APP_DATABASE_SQLITE_PATH")
    [warning] = find_warnings(ChassisSettings)
    assert name.upper() in warning
    assert MEANT[name] in warning
    assert SECRET not in warning


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("place", ["the environment", ".env"])
def test_a_password_file_beside_another_choice_is_a_warning(
    place: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, PASSWORD_FILE, "/run/secrets/password", monkeypatch)
    monkeypatch.setenv(choice, CHOICES[choice])
    [warning] = ChassisSettings().database_warnings
    assert warning.startswith(f"{PASSWORD_FILE} is not read")


def test_a_secret_file_of_the_url_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secrets").mkdir()
    Path("secrets", "app_database_url").write_text("postgresql://db/shop\n")
    monkeypatch.setenv("APP_SECRETS_DIR", "secrets")
    monkeypatch.setenv("DATABASE_URL_FILE", "secrets/app_database_url")
    assert DatabaseSettings().database_target.masked == "postgresql://db:5432/shop"


def test_settings_made_in_code_are_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DB_URL", SECRET)
    settings = DatabaseSettings(database_url=SecretStr("sqlite:///shop.db"))
    assert settings.database_target.masked == "sqlite:///shop.db"


def test_a_setting_of_the_service_is_no_near_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_POSTGRES_URL", "postgresql://db/other")
    assert Settings().database_target.backend == "sqlite"
    assert list(find_warnings(Settings)) == []


@pytest.mark.parametrize(
    "name",
    ["DB_URL", "POSTGRES_URL", "APP_URL", "APP_REDIS_URL", "APP_BASE_URL", "APP_KEY_FILE"],
)
def test_what_may_be_meant_for_something_else_is_not_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    assert DatabaseSettings().database_target.backend == "sqlite"


def test_a_file_for_a_secret_of_the_service_is_named_with_the_folder_that_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APP_POSTGRES_URL_FILE", "/run/secrets/url")
    monkeypatch.setenv("APP_DATABASE_BACKEND", "sqlite")
    [warning] = find_warnings(Settings)
    assert "put its value into a file named app_postgres_url in APP_SECRETS_DIR" in warning

    monkeypatch.delenv("APP_DATABASE_BACKEND")
    assert Settings().database_target.backend == "sqlite"
