"""The service that is attacked: rendered with its example, with the extra of its metrics."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.postgres import Postgres
from tests.pythons import RUNNING, find_python
from tests.releases import once
from tests.service import Service

from .attacked import Attacked


@pytest.fixture(scope="session")
def metered(rendered: Render, shared: Path) -> Service:
    """The service of the default answers that can count, installed once for the whole run."""
    python = find_python(RUNNING)

    def make(folder: Path) -> None:
        shutil.copytree(rendered(), folder)
        Service(folder, python).uv("add", "service-chassis[metrics]==0+template").check()
        Service(folder, python).take_bytecode()

    return Service(once(shared / "services" / "metered", make), python)


@pytest.fixture(scope="session")
def migrated_file(metered: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's database as a file, to copy."""
    file = tmp_path_factory.mktemp("migrated") / "app.db"
    metered.with_environment(APP_DATABASE_SQLITE_PATH=str(file)).cli("migrate").check()
    return file


@pytest.fixture(scope="session")
def migrated_database(metered: Service, postgres: Postgres) -> str:
    """The service's database on PostgreSQL, to copy."""
    name = postgres.create_database()
    metered.with_environment(APP_DATABASE_URL=postgres.url(name)).cli("migrate").check()
    return name


@pytest.fixture(params=["sqlite", "postgres"])
def attacked(request: pytest.FixtureRequest, metered: Service, tmp_path: Path) -> Attacked:
    """That service on a migrated database of the test's own, on either backend."""
    if request.param == "sqlite":
        file = shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "app.db")
        return Attacked(metered.with_environment(APP_DATABASE_SQLITE_PATH=str(file)))
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create_database(request.getfixturevalue("migrated_database"))
    service = metered.with_environment(APP_DATABASE_URL=postgres.url(name))
    return Attacked(service, postgres, name)
