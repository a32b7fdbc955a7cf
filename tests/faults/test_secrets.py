"""Secrets: where they may come from, that they may change, and that no output shows them."""

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from chassis import ChassisSettings
from chassis.commands.variables import explain
from chassis.db import create_database_engine, create_read_engine
from chassis.db.address.secrets import read_azure_key_vault, read_gcp_secret_manager
from chassis.db.address.sources import storable_variables
from chassis.db.engines import create_probe_engine
from chassis.db.errors import DatabaseSettingsError, DatabaseUnavailableError
from chassis.db.migrations.connect import wait_for_database
from moto import mock_aws
from pydantic import ValidationError
from pydantic_settings import SettingsError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.postgres import HOST, PASSWORD, USER

from . import passwords
from .certificates import Certificates
from .conftest import ReadSettings
from .logins import Login, log_in_to_migrate, outcomes
from .servers import Cluster
from .stores import Token, azure_vault, gcp_client

PROVIDER = f"{passwords.__name__}:from_file"
MARKED = "s3cret"
WANTED = storable_variables(ChassisSettings)
Engines = Callable[[ChassisSettings], AsyncEngine]


class Provider:
    """The provider's password, and who asked for it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._password, self._asked = folder / "password", folder / "asked"
        self._asked.touch()
        monkeypatch.setenv(passwords.PASSWORD, str(self._password))
        monkeypatch.setenv(passwords.ASKED, str(self._asked))

    def rotate(self, server: Cluster, password: str) -> None:
        """Change the role's password, here and there."""
        server.execute(f"ALTER ROLE rotating PASSWORD '{password}'")
        self._password.write_text(password)

    @property
    def asked(self) -> list[str]:
        """Who asked, since the last look."""
        lines = self._asked.read_text().splitlines()
        self._asked.write_text("")
        return lines


@pytest.fixture
def provider(
    plain_server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Provider]:
    """A role whose password is known by a provider only."""
    plain_server.execute("CREATE ROLE rotating LOGIN")
    made = Provider(tmp_path, monkeypatch)
    made.rotate(plain_server, "first")
    yield made
    plain_server.execute("DROP ROLE rotating")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Amazon's stores, empty."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield


def rds_secret(server: Cluster, **changes: object) -> str:
    """Write a secret as RDS does."""
    return json.dumps(
        {
            "username": USER,
            "password": PASSWORD,
            "engine": "postgres",
            "host": HOST,
            "port": server.port,
            "dbname": "app",
            "dbInstanceIdentifier": "billing",
            **changes,
        }
    )


def keep(name: str, value: str) -> str:
    """Keep a secret in Amazon's Secrets Manager and return its ARN."""
    return str(boto3.client("secretsmanager").create_secret(Name=name, SecretString=value)["ARN"])


def refusal(read_settings: ReadSettings, **variables: str) -> str:
    """Return what a service says of settings that it refuses."""
    try:
        read_settings(**variables)
    except (ValidationError, SettingsError) as error:
        return explain(error, ChassisSettings)
    raise AssertionError("the settings were taken")


def rotating(server: Cluster, **variables: str) -> dict[str, str]:
    """Write the settings of a service whose password is asked for."""
    return {
        "APP_DATABASE_URL": f"postgres://rotating@{HOST}:{server.port}/app",
        "APP_DATABASE_PASSWORD_PROVIDER": PROVIDER,
        **variables,
    }


def test_a_provider_is_asked_for_each_connection_of_every_kind(
    plain_server: Cluster, provider: Provider, read_settings: ReadSettings
) -> None:
    settings = read_settings(**rotating(plain_server))
    caller = f"rotating@{HOST}:{plain_server.port}"

    async def open_two(create: Engines) -> None:
        engine = create(settings)
        async with engine.connect() as one, engine.connect() as other:
            assert await one.scalar(text("SELECT 1")) == await other.scalar(text("SELECT 1"))
        await engine.dispose()

    for create in (create_database_engine, create_read_engine):
        asyncio.run(open_two(create))
        assert provider.asked == [caller, caller]
    asyncio.run(probe(settings))
    assert provider.asked == [caller]
    assert isinstance(log_in_to_migrate(settings), Login)
    assert provider.asked == [caller]


async def probe(settings: ChassisSettings) -> None:
    """Connect as the readiness probe does."""
    engine = create_probe_engine(settings)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()


def test_a_password_may_change_while_the_service_runs(
    plain_server: Cluster, provider: Provider, read_settings: ReadSettings
) -> None:
    settings = read_settings(**rotating(plain_server))

    async def rotate_under(engine: AsyncEngine) -> None:
        async with engine.connect() as before:
            provider.rotate(plain_server, "second")
            async with engine.connect() as after:
                assert await after.scalar(text("SELECT current_user")) == "rotating"
            assert await before.scalar(text("SELECT current_user")) == "rotating"
        await engine.dispose()

    asyncio.run(rotate_under(create_database_engine(settings)))
    assert isinstance(log_in_to_migrate(settings), Login)


def test_a_password_file_may_change_while_the_service_runs(
    plain_server: Cluster, provider: Provider, read_settings: ReadSettings, tmp_path: Path
) -> None:
    settings = read_settings(
        APP_DATABASE_BACKEND="postgres",
        APP_DATABASE_POSTGRES_HOST=HOST,
        APP_DATABASE_POSTGRES_PORT=str(plain_server.port),
        APP_DATABASE_POSTGRES_USER="rotating",
        APP_DATABASE_POSTGRES_PASSWORD_FILE=str(tmp_path / "password"),
    )
    assert set(map(type, outcomes(settings).values())) == {Login}

    provider.rotate(plain_server, "third")

    assert set(map(type, outcomes(settings).values())) == {Login}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("failing", "failing raised RuntimeError"),
        ("slow", "TimeoutError"),
    ],
)
def test_a_provider_that_fails_makes_the_database_unavailable(
    plain_server: Cluster, read_settings: ReadSettings, function: str, message: str
) -> None:
    name = f"{passwords.__name__}:{function}"
    given = rotating(plain_server, APP_DATABASE_PASSWORD_PROVIDER=name)
    settings = read_settings(**given, APP_DATABASE_CONNECT_TIMEOUT_SECONDS="0.5")

    with pytest.raises(DatabaseUnavailableError, match=message) as failed:
        asyncio.run(probe(settings))
    assert MARKED not in str(failed.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{passwords.__name__}:empty", "must return a string that is not empty"),
        (f"{passwords.__name__}:missing", "can't be imported"),
        ("nowhere:password", "can't be imported"),
        (f"{passwords.__name__}:NOT_A_FUNCTION", "is not a function"),
    ],
)
def test_a_provider_that_is_none_is_named(
    plain_server: Cluster, read_settings: ReadSettings, name: str, message: str
) -> None:
    settings = read_settings(**rotating(plain_server, APP_DATABASE_PASSWORD_PROVIDER=name))

    with pytest.raises(DatabaseSettingsError, match="APP_DATABASE_PASSWORD_PROVIDER") as refused:
        asyncio.run(probe(settings))
    assert message in str(refused.value)
    assert MARKED not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"APP_DATABASE_PASSWORD_PROVIDER": "fetch"}, "is written module:function"),
        (
            {
                "APP_DATABASE_PASSWORD_PROVIDER": PROVIDER,
                "APP_DATABASE_URL": f"postgres://ann:{MARKED}@h/app",
            },
            "APP_DATABASE_URL has a password as well",
        ),
        (
            {
                "APP_DATABASE_PASSWORD_PROVIDER": PROVIDER,
                "APP_DATABASE_BACKEND": "postgres",
                "APP_DATABASE_POSTGRES_PASSWORD": MARKED,
            },
            "APP_DATABASE_BACKEND has a password as well",
        ),
    ],
)
def test_a_provider_is_written_once_and_has_no_rival(
    read_settings: ReadSettings, variables: dict[str, str], message: str
) -> None:
    said = refusal(read_settings, **variables)

    assert "APP_DATABASE_PASSWORD_PROVIDER: " in said
    assert message in said
    assert MARKED not in said


def test_a_provider_stands_in_for_the_password_of_the_fields(read_settings: ReadSettings) -> None:
    settings = read_settings(
        APP_DATABASE_BACKEND="postgres", APP_DATABASE_PASSWORD_PROVIDER=PROVIDER
    )

    assert settings.database_target.masked == "postgresql://postgres@localhost:5432/app"


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("by", ["name", "arn"])
@pytest.mark.parametrize("key", ["dbname", "database"])
def test_a_secret_that_rds_writes_is_enough_to_log_in(
    plain_server: Cluster, read_settings: ReadSettings, by: str, key: str
) -> None:
    secret = rds_secret(plain_server)
    if key == "database":
        secret = secret.replace('"dbname"', '"database"')
    arn = keep("billing", secret)
    source = f"aws-secrets-manager:{'billing' if by == 'name' else arn}"

    assert set(outcomes(read_settings(APP_SECRETS_SOURCE=source)).values()) == {
        Login(USER, "app", False, "")
    }


@pytest.mark.usefixtures("aws")
def test_a_secret_with_only_a_login_leaves_the_rest_to_variables(
    plain_server: Cluster, read_settings: ReadSettings
) -> None:
    keep("billing", json.dumps({"username": USER, "password": PASSWORD}))
    settings = read_settings(
        APP_SECRETS_SOURCE="aws-secrets-manager:billing",
        APP_DATABASE_POSTGRES_HOST=HOST,
        APP_DATABASE_POSTGRES_PORT=str(plain_server.port),
    )

    assert set(outcomes(settings).values()) == {Login(USER, "app", False, "")}


@pytest.mark.usefixtures("aws")
def test_a_secret_may_have_a_key_for_each_variable(
    plain_server: Cluster, read_settings: ReadSettings
) -> None:
    keep("billing", json.dumps({"APP_DATABASE_URL": plain_server.url("app"), "other": "x"}))
    settings = read_settings(APP_SECRETS_SOURCE="aws-secrets-manager:billing")

    assert set(outcomes(settings).values()) == {Login(USER, "app", False, "")}


@pytest.mark.usefixtures("aws")
def test_a_store_holds_no_variable_that_platforms_set(read_settings: ReadSettings) -> None:
    keep("billing", json.dumps({"DATABASE_URL": "postgres://other/other", "PORT": 9000}))
    settings = read_settings(APP_SECRETS_SOURCE="aws-secrets-manager:billing")

    assert settings.database_target.backend == "sqlite"
    assert settings.server_port == 8000


@pytest.mark.usefixtures("aws")
def test_a_variable_beats_the_store(plain_server: Cluster, read_settings: ReadSettings) -> None:
    keep("billing", rds_secret(plain_server))
    settings = read_settings(
        APP_SECRETS_SOURCE="aws-secrets-manager:billing", APP_DATABASE_POSTGRES_NAME="postgres"
    )

    assert set(outcomes(settings).values()) == {Login(USER, "postgres", False, "")}


@pytest.mark.usefixtures("aws")
def test_the_parameter_store_has_a_parameter_for_each_variable(
    plain_server: Cluster, read_settings: ReadSettings
) -> None:
    given = {"APP_DATABASE_URL": plain_server.url("app"), "APP_DATABASE_APPLICATION_NAME": "ssm"}
    for name, value in given.items():
        boto3.client("ssm").put_parameter(
            Name=f"/billing/prod/{name}", Value=value, Type="SecureString"
        )
    settings = read_settings(APP_SECRETS_SOURCE="aws-parameter-store:/billing/prod")

    assert set(outcomes(settings).values()) == {Login(USER, "app", False, "ssm")}


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_line_break_at_the_end_of_a_stored_secret_is_no_part_of_it(
    read_settings: ReadSettings, ending: str
) -> None:
    login = {"username": "ann", "password": MARKED, "host": "db", "dbname": "shop"}
    keep("billing", json.dumps({name: text + ending for name, text in login.items()}))
    target = read_settings(APP_SECRETS_SOURCE="aws-secrets-manager:billing").database_target

    assert (target.masked, target.url.password) == ("postgresql://ann@db:5432/shop", MARKED)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("source", "secret", "message"),
    [
        ("aws-secrets-manager:missing", "{}", "can't be read (ResourceNotFoundException)"),
        ("aws-secrets-manager:billing", f"not json: {MARKED}", "can't be read (JSONDecodeError)"),
        ("aws-secrets-manager:billing", f'["{MARKED}"]', "can't be read"),
        (
            "aws-secrets-manager:billing",
            json.dumps({"password": MARKED, "engine": "mysql"}),
            "another database than PostgreSQL",
        ),
        (
            "aws-secrets-manager:billing",
            json.dumps({"APP_DATABASE_URL": ""}),
            "APP_DATABASE_URL is empty there",
        ),
        ("aws-parameter-store:billing", "{}", "is written aws-parameter-store:/path"),
        ("aws", "{}", "is written aws-secrets-manager:NAME-OR-ARN or"),
        ("vault:billing", "{}", "is written aws-secrets-manager:NAME-OR-ARN or"),
        ("azure-key-vault:", "{}", "is written aws-secrets-manager:NAME-OR-ARN or"),
    ],
)
def test_a_store_that_can_not_be_read_is_an_error_and_never_a_default(
    read_settings: ReadSettings, source: str, secret: str, message: str
) -> None:
    keep("billing", secret)

    said = refusal(read_settings, APP_SECRETS_SOURCE=source)

    assert "APP_SECRETS_SOURCE: " in said
    assert message in said
    assert MARKED not in said


def test_gcp_has_a_secret_for_each_variable() -> None:
    with gcp_client({"APP_DATABASE_URL": "postgres://h/app", "OTHER": "x"}) as client:
        texts = read_gcp_secret_manager("billing", WANTED, client)

    assert texts == {"APP_DATABASE_URL": "postgres://h/app"}


def test_a_gcp_secret_that_may_not_be_read_is_an_error() -> None:
    with (
        gcp_client({"APP_DATABASE_POSTGRES_PASSWORD": None}) as client,
        pytest.raises(SettingsError, match="APP_DATABASE_POSTGRES_PASSWORD is there"),
    ):
        read_gcp_secret_manager("billing", WANTED, client)


def test_azure_has_a_secret_for_each_variable_with_hyphens(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.certificate("ca")))
    secrets = {"APP-DATABASE-URL": "postgres://h/app", "other": "x"}
    with azure_vault(secrets, certificates) as url:
        texts = read_azure_key_vault(url, WANTED, Token())

    assert texts == {"APP_DATABASE_URL": "postgres://h/app"}


def test_no_output_of_a_failure_has_the_password(
    plain_server: Cluster,
    read_settings: ReadSettings,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for host, port, user in (
        (HOST, plain_server.port, USER),
        (HOST, plain_server.port, "nobody"),
        (HOST, 1, USER),
        ("nowhere.invalid", 5432, USER),
    ):
        url = f"postgres://{user}:{MARKED}@{host}:{port}/app?sslpassword={MARKED}"
        settings = read_settings(
            APP_DATABASE_URL=url, APP_DATABASE_ECHO="true", APP_DATABASE_WAIT_SECONDS="0"
        )
        said += [settings.describe_database(), repr(settings), *failures(settings)]

    output = capfd.readouterr()
    assert "nowhere.invalid" in "".join(said)
    assert MARKED not in "".join((*said, caplog.text, output.out, output.err))


def failures(settings: ChassisSettings) -> Iterator[str]:
    """Yield the errors of a database that can't be used, with what caused them."""
    with pytest.raises(DatabaseUnavailableError) as failed:
        asyncio.run(probe(settings))
    yield "".join(traceback.format_exception(failed.value))
    with pytest.raises(DatabaseUnavailableError) as failed:
        wait_for_database(settings)
    yield "".join(traceback.format_exception(failed.value))
