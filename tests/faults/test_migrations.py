"""Migrations: many at once, ones that fail, ones that meet a busy table, and a rehearsal of all."""

import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.postgres import PASSWORD, USER

from .bank import Bank
from .forks import FORKS
from .servers import Cluster

AT_ONCE = 8
TABLE = 'op.create_table("{0}", sa.Column("id", sa.Integer))'
DROP = 'op.drop_table("{0}")'
# Fails where it is applied twice, takes a second, and leaves a row behind.
SLOW = f"""{TABLE.format("slow")}
    time.sleep(1)
    op.execute("INSERT INTO slow VALUES (1)")"""
CONCURRENT_INDEX = """with op.get_context().autocommit_block():
        op.create_index("ix_slow_id", "slow", ["id"], postgresql_concurrently=True)"""
RECREATE = """with op.batch_alter_table("accounts", recreate="{}") as batch:
        batch.add_column(sa.Column("name", sa.String(), nullable=True))"""

on_sqlite = pytest.mark.parametrize("bank", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("bank", ["postgres"], indirect=True)


class Database:
    """A bank's database, asked without the bank."""

    def __init__(self, bank: Bank, server: Cluster | None) -> None:
        self._bank = bank
        self._server = server

    def execute(self, statement: str) -> str:
        """Run a statement and give its first value, an empty string where there is none."""
        if self._server is not None:
            name = self._bank.url.rpartition("/")[2]
            return self._server.execute(statement, database=name)
        file = self._bank.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(file)) as connection, connection:
            return str((connection.execute(statement).fetchone() or [""])[0])


@pytest.fixture
def database(bank: Bank, request: pytest.FixtureRequest) -> Database:
    """The bank's database."""
    is_file = bank.url.startswith("sqlite")
    return Database(bank, None if is_file else request.getfixturevalue("embedded_server"))


def test_migrations_at_once_are_applied_once_and_all_succeed(
    bank: Bank, database: Database
) -> None:
    bank = bank.copied()
    bank.add_revision("2", SLOW)
    revisions = ["2"]
    if not bank.url.startswith("sqlite"):
        bank.add_revision("3", CONCURRENT_INDEX, after="2")
        revisions = ["2", "3"]

    together = FORKS.Barrier(AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        migrate = [threads.submit(bank.run, "migrate", together=together) for _ in range(AT_ONCE)]
    ends = [one.result().stdout for one in migrate]

    codes = [one.result().returncode for one in migrate]
    applied = [sum(f"-> {one}" in end for end in ends) for one in revisions]
    print(f"exit codes {codes}, each revision applied {applied}")
    assert codes == [0] * AT_ONCE, ends
    assert applied == [1] * len(revisions)
    assert database.execute("SELECT version_num FROM alembic_version") == revisions[-1]
    assert database.execute("SELECT count(*) FROM slow") == "1"


def test_a_failing_revision_leaves_the_schema_as_it_was(bank: Bank, database: Database) -> None:
    bank = bank.copied()
    bank.add_revision("2", TABLE.format("half"))
    bank.add_revision("3", f"{TABLE.format('other')}\n    raise RuntimeError('no')", after="2")

    failed = bank.run("migrate")
    version = database.execute("SELECT version_num FROM alembic_version")
    (bank.revisions / "3.py").unlink()
    repaired = bank.run("migrate")

    assert failed.returncode == 1
    assert "RuntimeError: no" in failed.stdout
    assert version == "1"
    # It would fail here if anything had been left behind.
    assert repaired.returncode == 0, repaired.stdout
    assert database.execute("SELECT version_num FROM alembic_version") == "2"


def test_a_parent_table_that_is_recreated_keeps_its_children(
    bank: Bank, database: Database
) -> None:
    for number in range(10):
        values = f"({number}, 'entry {number}', 1)"
        database.execute(f"INSERT INTO entries (id, name, account_id) VALUES {values}")
    bank = bank.copied()
    is_file = bank.url.startswith("sqlite")
    bank.add_revision("2", RECREATE.format("always" if is_file else "auto"))

    done = bank.run("migrate")

    assert done.returncode == 0, done.stdout
    assert database.execute("SELECT count(*) FROM entries WHERE account_id = 1") == "10"
    assert database.execute("SELECT count(name) FROM accounts") == "0"


@on_postgres
def test_a_table_in_use_ends_a_migration_in_time_and_in_one_message(
    bank: Bank, embedded_server: Cluster
) -> None:
    bank = bank.copied().set(APP_DATABASE_WAIT_SECONDS="1")
    bank.add_revision("2", 'op.add_column("entries", sa.Column("note", sa.String()))')
    name = bank.url.rpartition("/")[2]
    held = "BEGIN; LOCK TABLE entries IN ACCESS SHARE MODE; SELECT pg_sleep(60)"
    psql = [str(embedded_server.programs / "psql"), "-XqAt", "-d", name, "-U", "postgres"]
    address = ["-h", str(embedded_server.folder), "-p", str(embedded_server.port)]
    with subprocess.Popen(
        [*psql, *address, "-c", held], stdout=subprocess.DEVNULL, user=embedded_server.system_user
    ) as holder:
        wait_for_lock(embedded_server, name)
        started = time.monotonic()
        done = bank.run("migrate")
        took = time.monotonic() - started
        holder.kill()

    assert done.returncode == 1
    assert took < 30
    assert "APP_DATABASE_WAIT_SECONDS" in done.stdout
    assert "Traceback" not in done.stdout


@on_sqlite
def test_several_heads_are_an_error_that_says_how_to_join_them(bank: Bank) -> None:
    bank = bank.copied()
    bank.add_revision("2a", "pass")
    bank.add_revision("2b", "pass")

    for arguments in (("migrate",), ("migrate", "--check")):
        done = bank.run(*arguments)
        assert done.returncode == 1
        assert "2 heads, 2a, 2b: join them with alembic merge" in done.stdout
        assert "Traceback" not in done.stdout


@on_sqlite
def test_a_package_without_revisions_is_an_error(bank: Bank) -> None:
    bank = bank.copied()
    (bank.revisions / "1_create_bank.py").unlink()

    for arguments in (("migrate",), ("migrate", "--check")):
        done = bank.run(*arguments)
        assert done.returncode == 1
        assert "there is no revision in migrations/versions" in done.stdout
        assert "Traceback" not in done.stdout


@on_sqlite
def test_a_database_that_is_newer_than_the_code_is_left_alone(
    bank: Bank, database: Database
) -> None:
    newer = bank.copied()
    newer.add_revision("2", TABLE.format("new"))
    assert newer.run("migrate").returncode == 0

    done = bank.run("migrate")

    assert done.returncode == 0, done.stdout
    assert "revision 2, which this code does not have" in done.stdout
    assert database.execute("SELECT version_num FROM alembic_version") == "2"


def test_a_rehearsal_goes_up_down_and_up_and_leaves_nothing(
    bank: Bank, database: Database, embedded_server: Cluster
) -> None:
    database.execute("INSERT INTO entries (id, name) VALUES (1, 'mine')")
    before = sorted(path.name for path in bank.folder.iterdir())

    done = bank.run("migrate", "--check")

    assert done.returncode == 0, done.stdout
    assert "SQLite, a temporary file: in order" in done.stdout
    assert "PostgreSQL 18" in done.stdout
    assert "the migrations are in order" in done.stdout
    assert database.execute("SELECT name FROM entries") == "mine"
    assert sorted(path.name for path in bank.folder.iterdir()) == before
    assert "rehearsal" not in embedded_server.execute("SELECT datname FROM pg_database")


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "says"),
    [
        (TABLE.format("more"), "pass", "alembic check: remove_table more"),
        ('op.execute("CREATE VIEW a AS SELECT 1")', "pass", "the second upgrade to the head fails"),
        ("pass", "raise NotImplementedError", "the downgrade to the base fails"),
        ("raise RuntimeError('no')", "pass", "the upgrade to the head fails in 2.py"),
    ],
    ids=["drift", "a downgrade that leaves something", "no downgrade", "a broken upgrade"],
)
def test_a_rehearsal_says_which_step_fails(
    bank: Bank, embedded_server: Cluster, upgrade: str, downgrade: str, says: str
) -> None:
    bank = bank.copied()
    bank.add_revision("2", upgrade, downgrade)

    database = "sqlite" if bank.url.startswith("sqlite") else bank.url
    done = bank.run("migrate", "--check", "--database", database)

    assert done.returncode == 1
    assert says in done.stdout
    assert "Traceback" not in done.stdout
    assert "rehearsal" not in embedded_server.execute("SELECT datname FROM pg_database")


@on_postgres
def test_a_rehearsal_needs_a_role_that_may_create_databases(
    bank: Bank, embedded_server: Cluster
) -> None:
    embedded_server.execute(f"CREATE ROLE modest LOGIN PASSWORD '{PASSWORD}'")
    modest = Bank(bank.url.replace(f"//{USER}:", "//modest:"), bank.folder)

    done = modest.run("migrate", "--check")

    embedded_server.execute("DROP ROLE modest")
    assert done.returncode == 2
    assert "ALTER ROLE … CREATEDB" in done.stdout
    assert "Traceback" not in done.stdout


@on_sqlite
def test_a_backup_is_made_when_there_is_something_to_migrate(
    bank: Bank, database: Database
) -> None:
    database.execute("INSERT INTO entries (id, name) VALUES (1, 'mine')")
    bank = bank.copied().set(APP_DATABASE_SQLITE_BACKUP_BEFORE_MIGRATE="true")

    assert bank.run("migrate").returncode == 0
    assert list(bank.folder.glob("*.backup")) == []
    bank.add_revision("2", 'op.drop_table("entries")')
    assert bank.run("migrate").returncode == 0

    (backup,) = bank.folder.glob("bank.db.*.backup")
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT name FROM entries").fetchall() == [("mine",)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("1",)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def wait_for_lock(server: Cluster, database: str) -> None:
    """Wait until somebody holds the table."""
    query = "SELECT count(*) FROM pg_locks WHERE relation = 'entries'::regclass"
    deadline = time.monotonic() + 30
    while server.execute(query, database=database) == "0":
        assert time.monotonic() < deadline
        time.sleep(0.05)
