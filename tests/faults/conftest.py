"""The servers of the fault tests, one of each for a worker, and settings that see nothing else."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chassis import ChassisSettings

from tests.postgres import USER

from .bank import Bank
from .certificates import Certificates, make_certificates
from .embedded import embedded
from .servers import Cluster, Pooler, find_programs, pooler, started, tls_options

ReadSettings = Callable[..., ChassisSettings]


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the working directory, where a developer's .env may be, and the home, with its keys."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def read_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ReadSettings:
    """Read settings from variables of the environment, as a service does, and from no other."""

    def read(**variables: str) -> ChassisSettings:
        for name, value in {"APP_SECRETS_DIR": str(tmp_path / "none"), **variables}.items():
            monkeypatch.setenv(name, value)
        return ChassisSettings()

    return read


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """An authority and what it signed, where a server's own user can read it."""
    with tempfile.TemporaryDirectory(prefix="certificates-") as folder:
        Path(folder).chmod(0o755)
        yield make_certificates(Path(folder), host="localhost", user="certified")


@pytest.fixture(scope="session")
def tls_server(certificates: Certificates) -> Iterator[Cluster]:
    """A PostgreSQL that offers TLS, with a certificate for localhost."""
    programs, system_user = find_programs()
    options = tls_options(certificates, system_user)
    with started(programs, system_user, *options) as server:
        server.execute("CREATE ROLE certified LOGIN", f"CREATE DATABASE app OWNER {USER}")
        yield server


@pytest.fixture(scope="session")
def plain_server() -> Iterator[Cluster]:
    """A PostgreSQL without TLS."""
    programs, system_user = find_programs()
    with started(programs, system_user, "-c ssl=off") as server:
        server.execute(f"CREATE DATABASE app OWNER {USER}")
        yield server


@pytest.fixture(scope="session")
def transaction_pooler(plain_server: Cluster) -> Iterator[Pooler]:
    """A PgBouncer in transaction mode, with fewer connections than its clients have."""
    with pooler(plain_server, pool_mode="transaction", default_pool_size="5") as made:
        yield made


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Cluster]:
    """The embedded PostgreSQL, which needs nothing that is installed, and offers no TLS."""
    with embedded() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank's database as a file, to copy."""
    folder = tmp_path_factory.mktemp("bank")
    Bank(f"sqlite:///{folder}/bank.db", folder).migrate()
    return folder / "bank.db"


@pytest.fixture(scope="session")
def migrated_database(embedded_server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bank's database on PostgreSQL, to copy."""
    name = embedded_server.create_database()
    Bank(embedded_server.url(name), tmp_path_factory.mktemp("bank")).migrate()
    return name


@pytest.fixture(params=["sqlite", "postgres"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    """The bank on a database of the test's own, on either backend."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "bank.db")
        return Bank(f"sqlite:///{tmp_path}/bank.db", tmp_path)
    server: Cluster = request.getfixturevalue("embedded_server")
    name = server.create_database(request.getfixturevalue("migrated_database"))
    return Bank(server.url(name), tmp_path)
