"""A migration of a table that a long transaction uses: how long the traffic on it stands still."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from tests.postgres import PASSWORD, USER

from .bank import Bank
from .servers import Cluster, find_programs, started

ADD_COLUMN = 'op.add_column("entries", sa.Column("note", sa.String()))'
TRIES = 3
LONGEST_STALL_SECONDS = 1.6


def connect(bank: Bank) -> psycopg.Connection:
    return psycopg.connect(bank.url.replace("postgres://", "postgresql://"), autocommit=True)


@contextmanager
def reading(bank: Bank) -> Iterator[list[float]]:
    """Read the table all the time; how long each read took."""
    took: list[float] = []
    over = threading.Event()

    def read() -> None:
        with connect(bank) as connection:
            while not over.is_set():
                begun = time.monotonic()
                connection.execute("SELECT count(id) FROM entries")
                took.append(time.monotonic() - begun)
                time.sleep(0.01)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield took
    finally:
        over.set()
        reader.join()


@pytest.mark.parametrize("bank", ["postgres"], indirect=True)
def test_the_traffic_stands_still_for_a_try_at_most_and_the_migration_succeeds(bank: Bank) -> None:
    bank = bank.copied()
    bank.add_revision("2", ADD_COLUMN)
    with connect(bank) as holder, reading(bank) as took:
        holder.execute("BEGIN")
        holder.execute("SELECT * FROM entries")
        with bank.start("migrate") as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "".join(said).count("a table is in use") == TRIES:
                    holder.execute("COMMIT")

    print(f"longest read {max(took):.2f} s of {len(took)}, beside {TRIES} tries that failed")
    assert process.returncode == 0, said
    assert max(took) < LONGEST_STALL_SECONDS


@pytest.fixture(scope="module")
def german_server() -> Iterator[Cluster]:
    """A PostgreSQL that says everything in German."""
    programs, system_user = find_programs()
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="locales-") as folder:
        # The server's user reads it, too.
        Path(folder).chmod(0o755)
        compiled = ["localedef", "-i", "de_DE", "-f", "UTF-8", f"{folder}/de_DE.UTF-8"]
        if subprocess.run(compiled, capture_output=True, check=False).returncode:
            pytest.skip("needs the sources of locales: apt-get install locales")
        patch.setenv("LOCPATH", folder)
        with started(programs, system_user, "-c lc_messages=de_DE.UTF-8") as server:
            yield server


@pytest.mark.parametrize(
    ("user", "password", "database", "says"),
    [
        (USER, "wrong", "postgres", "Passwort"),
        (USER, PASSWORD, "none", "existiert nicht"),
        ("nobody", PASSWORD, "postgres", "Passwort"),
    ],
)
def test_waiting_ends_at_once_where_a_server_refuses_in_german(
    german_server: Cluster, tmp_path: Path, user: str, password: str, database: str, says: str
) -> None:
    bank = Bank(german_server.url(database), tmp_path).set(
        APP_DATABASE_URL="",
        APP_DATABASE_BACKEND="postgres",
        APP_DATABASE_POSTGRES_HOST="127.0.0.1",
        APP_DATABASE_POSTGRES_PORT=str(german_server.port),
        APP_DATABASE_POSTGRES_USER=user,
        APP_DATABASE_POSTGRES_PASSWORD=password,
        APP_DATABASE_POSTGRES_NAME=database,
        APP_DATABASE_WAIT_SECONDS="60",
    )

    done = bank.run("migrate", "--wait")

    assert done.returncode == 1
    assert says in done.stdout, done.stdout
    for absent in ("waiting for the database", "Traceback", password):
        assert absent not in done.stdout
