"""Test a service on a real database of its own for each test: pytest fixtures.

A service names itself once, in its tests/conftest.py:

    @pytest.fixture(scope="session")
    def service() -> Service[Settings]:
        return Service(create=create_service, settings=Settings, package="my_service")

and its tests ask for what they need; `async def` tests need no mark:

    async def test_an_item_is_kept(client: AsyncClient) -> None: ...

A test's working directory is its `tmp_path`, where no `.env` is; `project_root` is the folder of
the service's pyproject.toml.

`pytest --database sqlite` is the default, `--database postgres` starts an embedded server, and
`--database postgresql://…` uses a server that runs already; all of them also under `pytest -n`.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Request
from pydantic import SecretStr, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from starlette.types import ASGIApp, Receive, Scope, Send

from ..db.address.settings import DatabaseSettings
from ..db.engines import create_database_engine, create_read_engine
from ..db.errors import DatabaseSettingsError
from ..db.migrations.authoring.scratch import check_choice
from ..db.session_factories import create_session_factory
from ..db.sessions import session_scope
from .databases import NO_SECRETS_DIR, Databases, SQLiteFiles, postgres_databases, start_server
from .migrations import check_migrations

SettingsT = TypeVar("SettingsT", bound=DatabaseSettings)

__all__ = [
    "Service",
    "app",
    "check_migrations",
    "client",
    "database_settings",
    "engine",
    "project_root",
    "read_engine",
    "service",
    "session",
    "settings",
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
        yield _make_settings(service, url)


@pytest.fixture
def database_settings(_databases: Databases) -> Iterator[DatabaseSettings]:
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
    settings: DatabaseSettings, engine: AsyncEngine, _sessions: list[AsyncSession]
) -> AsyncIterator[AsyncSession]:
    """Yield a write session to arrange and inspect rows; commit before the service is called."""
    async with session_scope(create_session_factory(settings, engine)) as session:
        _sessions.append(session)
        yield session


@pytest.fixture
def app(service: Service[Any], settings: Any) -> FastAPI:
    """Return the application; `client` starts it."""
    return service.create(settings)


@pytest.fixture
async def client(app: FastAPI, _sessions: list[AsyncSession]) -> AsyncIterator[AsyncClient]:
    """Yield a client of the started application; what a handler raises reaches the test."""

    async def check_sessions(request: Request) -> None:
        if any(session.in_transaction() for session in _sessions):
            pytest.fail(
                "the fixture `session` is in a transaction that the service may wait for: "
                "commit before the request, after reads too"
            )

    async with app.router.lifespan_context(app) as state:
        transport = ASGITransport(_with_state(app, dict(state or {})))
        hooks = {"request": [check_sessions]}
        async with AsyncClient(
            transport=transport, base_url="http://testserver", event_hooks=hooks
        ) as client:
            yield client


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


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the server in xdist's controller: who starts it for all workers also stops it."""
    if node.config.getoption("database") == "postgres":
        node.workerinput[_WORKER_INPUT] = _embedded_server(node.config)


@pytest.fixture(scope="session", autouse=True)
def _session_isolation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with _isolated(tmp_path_factory.mktemp("session")):
        yield


@pytest.fixture(autouse=True)
def _isolation(_session_isolation: None, tmp_path: Path) -> Iterator[None]:
    with _isolated(tmp_path):
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
    url = _embedded_server(pytestconfig) if choice == "postgres" else choice
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
        return service.settings(database_url=url, secrets_dir=NO_SECRETS_DIR)
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


_WORKER_INPUT = "chassis_database_url"
_SERVER_URL = pytest.StashKey[str]()


def _pytest_asyncio_runs_all(config: pytest.Config) -> bool:
    if not config.pluginmanager.has_plugin("asyncio"):
        return False
    return "auto" in (config.getoption("asyncio_mode"), config.getini("asyncio_mode"))


def _embedded_server(config: pytest.Config) -> str:
    """Return the URL of this run's server: the first call starts it, the end of pytest stops it."""
    if url := getattr(config, "workerinput", {}).get(_WORKER_INPUT):
        return str(url)
    if _SERVER_URL not in config.stash:
        # Not below pytest's own folder, which another run closes to the server's user.
        folder = Path(tempfile.mkdtemp(prefix="chassis-postgres-"))
        with _isolated(folder):
            config.stash[_SERVER_URL], stop = start_server(folder)
        config.add_cleanup(stop)
    return config.stash[_SERVER_URL]


@contextmanager
def _isolated(folder: Path) -> Iterator[None]:
    """Leave the shell's variables and the working directory, where a .env may be."""
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(_is_a_setting, list(os.environ)):
            patch.delenv(name)
        patch.chdir(folder)
        yield


def _is_a_setting(variable: str) -> bool:
    name = variable.upper()
    if name.startswith("PG"):
        return not name.startswith("PGSERVER_")
    return name.startswith("APP_") or name in ("DATABASE_URL", "PORT", "RUN_DB_MIGRATIONS")


def _with_state(app: ASGIApp, state: dict[str, Any]) -> ASGIApp:
    """Pass the state of the lifespan to each request, as a server does."""

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": state.copy()}, receive, send)

    return with_state
