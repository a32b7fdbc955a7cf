"""Test a service on a real database of its own for each test: pytest fixtures.

A service names itself once, in its tests/conftest.py:

    @pytest.fixture(scope="session")
    def service() -> Service[Settings]:
        return Service(create=create_service, settings=Settings, package="my_service")

and its tests ask for what they need; `async def` tests need no mark:

    async def test_an_item_is_kept(client: Client) -> None: ...

A test's working directory is its `tmp_path`, where no `.env` is; `project_root` is the folder of
the service's pyproject.toml.

`pytest --database sqlite` is the default, `--database postgres` starts an embedded server, and
`--database postgresql://…` uses a server that runs already; all of them also under `pytest -n`.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ..db.address.settings import DatabaseSettings
from ..db.engines import create_database_engine, create_read_engine
from ..db.errors import DatabaseSettingsError
from ..db.migrations.authoring.scratch import check_choice
from ..observe.logs import LogOptions
from .callers import Client, caller_settings
from .clients import start_application
from .databases import NO_SECRETS_DIR, Databases, SQLiteFiles, postgres_databases
from .embedded_server import WORKER_INPUT, find_embedded_server
from .environment import isolated, write_variables
from .issuer import TokenIssuer, token_issuer
from .jobs import Jobs, jobs
from .log_lines import LogLines, keep_log_lines
from .migrations import check_migrations
from .processes import LiveServer, ServiceProcess, live_server, start_command, start_live_server
from .receiver import ReceivedRequest, Receiver, receiver
from .repeated_selects import MARK_HELP, RepeatedSelects
from .sessions import open_test_session
from .waiting import eventually
from .warning_filters import BUGS

SettingsT = TypeVar("SettingsT", bound=DatabaseSettings)

__all__ = [
    "Client",
    "Jobs",
    "LiveServer",
    "ReceivedRequest",
    "Receiver",
    "Service",
    "ServiceProcess",
    "TokenIssuer",
    "app",
    "check_migrations",
    "client",
    "empty_database_settings",
    "engine",
    "environ",
    "eventually",
    "jobs",
    "live_server",
    "log_lines",
    "make_client",
    "project_root",
    "read_engine",
    "receiver",
    "replica",
    "service",
    "session",
    "settings",
    "start_command",
    "start_live_server",
    "token_issuer",
]


@dataclass(frozen=True)
class Service(Generic[SettingsT]):
    """Name a service to the test kit.

    `settings` is the class, or where it has fields without a default, a function that has values
    for them: `partial(Settings, api_token="for-tests")`.
    """

    create: Callable[[SettingsT], FastAPI]
    settings: Callable[..., SettingsT]
    package: str


@pytest.fixture(scope="session")
def service() -> Service[Any]:
    """Name the service under test; a service's tests/conftest.py overrides this."""
    pytest.fail("define the fixture `service` in tests/conftest.py, as chassis.testing shows")


@pytest.fixture(scope="session")
def project_root(pytestconfig: pytest.Config) -> Path:
    """Return the project's folder: a test's working directory is its `tmp_path`."""
    return pytestconfig.rootpath


@pytest.fixture
def settings(service: Service[Any], _migrated_databases: Databases) -> Iterator[Any]:
    """Yield the service's settings, on a migrated database of the test's own."""
    with _migrated_databases.migrated() as url:
        # Jobs run when a test says so.
        yield _make_settings(service, url).model_copy(update={"jobs_in_server": False})


@pytest.fixture
def empty_database_settings(_databases: Databases) -> Iterator[DatabaseSettings]:
    """Yield settings on a database of the test's own where no migration has run."""
    with _databases.empty() as url:
        yield DatabaseSettings(database_url=SecretStr(url), secrets_dir=NO_SECRETS_DIR)


@pytest.fixture
async def engine(settings: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    """Yield a write engine on the test's database; the application has its own."""
    engine = create_database_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
async def read_engine(settings: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    """Yield a read engine on the test's database; the application has its own."""
    engine = create_read_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(
    settings: DatabaseSettings, _sessions: list[AsyncSession]
) -> AsyncIterator[AsyncSession]:
    """Yield a write session to arrange and inspect rows; commit before the service is called."""
    async with open_test_session(settings) as session:
        _sessions.append(session)
        yield session


@pytest.fixture
def app(service: Service[Any], settings: Any) -> FastAPI:
    """Return the application; `client` starts it."""
    return service.create(settings)


@pytest.fixture
async def make_client(
    app: FastAPI, _sessions: list[AsyncSession]
) -> AsyncIterator[Callable[..., Client]]:
    """Yield a function that makes clients of the started application: `headers=`, `cookies=` …"""
    async with start_application(app, _sessions) as make_client:
        yield make_client


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    """Return a client of the started application; what a handler raises reaches the test."""
    return make_client()


@pytest.fixture
async def replica(
    service: Service[Any], settings: Any, _sessions: list[AsyncSession]
) -> AsyncIterator[Client]:
    """Yield a client of a second application, started on the same database."""
    async with start_application(service.create(settings), _sessions) as make_client:
        yield make_client()


@pytest.fixture
def environ(settings: DatabaseSettings) -> dict[str, str]:
    """Return the environment that gives another process the settings of the test."""
    return {**os.environ, **write_variables(settings)}


@pytest.fixture
def log_lines(settings: Any) -> Iterator[LogLines]:
    """Yield the lines that the service writes to its log, each a dict of its fields."""
    with keep_log_lines(LogOptions.from_settings(settings)) as lines:
        yield lines


class _OnAsyncio:
    @pytest.fixture(scope="session")
    @classmethod
    def anyio_backend(cls) -> str:
        """Run async tests and fixtures on asyncio, as the server does."""
        return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("chassis").addoption(
        "--database",
        default="sqlite",
        metavar="sqlite|postgres|URL",
        help="where tests keep their data: sqlite (default), postgres (an embedded server), or the "
        "postgresql:// URL of a server, with a role that may create databases",
    )


def pytest_configure(config: pytest.Config) -> None:
    try:
        check_choice(config.getoption("database"))
    except DatabaseSettingsError as error:
        raise pytest.UsageError(str(error)) from error
    # Registered now, after every plugin: the last one wins, and anyio's has a fixture of this name.
    config.pluginmanager.register(_OnAsyncio(), "chassis-asyncio")
    if config.getoption("anyio_mode") is None and not _pytest_asyncio_runs_all(config):
        config.option.anyio_mode = "auto"
    config.addinivalue_line("filterwarnings", "error::chassis.db.errors.UncommittedChangesWarning")
    # First, so that a filter of the service's own overrules them.
    config.getini("filterwarnings")[:0] = BUGS
    config.addinivalue_line("markers", MARK_HELP)
    config.pluginmanager.register(RepeatedSelects(), "chassis-repeated-selects")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the server in xdist's controller: who starts it for all workers also stops it."""
    if node.config.getoption("database") == "postgres":
        node.workerinput[WORKER_INPUT] = find_embedded_server(node.config)


@pytest.fixture(scope="session", autouse=True)
def _session_isolation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with isolated(tmp_path_factory.mktemp("session")):
        yield


@pytest.fixture(autouse=True)
def _isolation(_session_isolation: None, tmp_path: Path) -> Iterator[None]:
    with isolated(tmp_path):
        yield


@pytest.fixture(scope="session")
def _databases(
    _session_isolation: None,
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Databases]:
    choice: str = pytestconfig.getoption("database")
    if choice == "sqlite":
        yield SQLiteFiles(tmp_path_factory.mktemp("databases"))
        return
    url = find_embedded_server(pytestconfig) if choice == "postgres" else choice
    with postgres_databases(url) as databases:
        yield databases


@pytest.fixture(scope="session")
def _migrated_databases(service: Service[Any], _databases: Databases) -> Iterator[Databases]:
    from ..db.migrations.upgrade import upgrade

    def migrate(url: str) -> None:
        upgrade(service.package, _make_settings(service, url))

    with _databases.prepared(migrate):
        yield _databases


def _make_settings(service: Service[SettingsT], url: str) -> SettingsT:
    try:
        return service.settings(database_url=url, secrets_dir=NO_SECRETS_DIR, **caller_settings())
    except ValidationError as error:
        missing = [str(one["loc"][0]) for one in error.errors() if one["type"] == "missing"]
        if not missing:
            raise
        values = ", ".join(f"{name}=…" for name in missing)
        pytest.fail(
            f"tests have no value for {', '.join(missing)}: write "
            f"Service(…, settings=partial(Settings, {values})) in tests/conftest.py",
            pytrace=False,
        )


@pytest.fixture
def _sessions() -> list[AsyncSession]:
    return []


def _pytest_asyncio_runs_all(config: pytest.Config) -> bool:
    if not config.pluginmanager.has_plugin("asyncio"):
        return False
    return "auto" in (config.getoption("asyncio_mode"), config.getini("asyncio_mode"))
