"""PgBouncer in transaction mode: nothing breaks behind it, and what can't work there is refused."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from chassis import ChassisSettings
from chassis.db import (
    create_database_engine,
    create_read_engine,
    create_session_factory,
    session_scope,
)
from chassis.db.copying.endpoints import open_target, resolve_target
from chassis.db.errors import (
    DatabaseSettingsError,
    DatabaseUnavailableError,
    ReadOnlySessionError,
)
from chassis.db.migrations.connect import create_migration_engine, wait_for_database
from chassis.db.migrations.lock import hold_lock
from chassis.db.postgres import connection_budget
from chassis.db.postgres.connection_budget import report_budget
from sqlalchemy import create_engine, insert, text

from tests.scale import FULL

from . import mixed_load
from .conftest import ReadSettings
from .mixed_load import Mood, Note
from .servers import Cluster, Pooler, pooler

SECONDS = 30 if FULL else 3
PROCESSES = 3
POOL = 5
# What a pooler must be told to overlook before anything but its own mode lets a client in.
OVERLOOKED = (
    "extra_float_digits,options,statement_timeout,lock_timeout,"
    "idle_in_transaction_session_timeout,default_transaction_read_only"
)


@pytest.fixture(scope="module")
def database(plain_server: Cluster) -> str:
    """A database with the table of the load."""
    name = plain_server.create_database()
    engine = create_engine(
        f"postgresql+psycopg://postgres@/{name}?host={plain_server.folder}&port={plain_server.port}"
    )
    Note.metadata.create_all(engine, tables=[Note.metadata.tables["note"]])
    with engine.begin() as connection:
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC"))
        connection.execute(text("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC"))
    engine.dispose()
    return name


@pytest.fixture
def pooled(
    transaction_pooler: Pooler, database: str, read_settings: ReadSettings
) -> ChassisSettings:
    """Settings of a service behind the pooler that says so."""
    return read_settings(
        APP_DATABASE_URL=transaction_pooler.url(database), APP_DATABASE_PGBOUNCER="true"
    )


@pytest.fixture(scope="module")
def lenient_pooler(plain_server: Cluster) -> Iterator[Pooler]:
    """A PgBouncer in transaction mode that overlooks start-up parameters."""
    options = {"pool_mode": "transaction", "ignore_startup_parameters": OVERLOOKED}
    with pooler(plain_server, **options) as made:
        yield made


@pytest.fixture(scope="module")
def session_pooler(plain_server: Cluster) -> Iterator[Pooler]:
    """A PgBouncer in session mode, which is as good as a server."""
    options = {"pool_mode": "session", "ignore_startup_parameters": OVERLOOKED}
    with pooler(plain_server, **options) as made:
        yield made


def loads(variables: dict[str, str], seconds: float, folder: Path) -> tuple[int, dict[str, int]]:
    """Run the mixed load in several processes and add up what they did, and their errors."""
    command = [sys.executable, str(mixed_load.__file__), str(seconds)]
    given = {**os.environ, **variables}
    processes = [
        subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True, cwd=folder)
        for _ in range(PROCESSES)
    ]
    done, errors = 0, dict[str, int]()
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0
        result = json.loads(said)
        done += sum(result["done"].values())
        for error, count in result["errors"].items():
            errors[error] = errors.get(error, 0) + count
    return done, errors


async def prepared_statements(settings: ChassisSettings) -> list[int]:
    """Count what is left in each of the pooler's connections, all held at once."""
    engine = create_database_engine(settings)
    async with AsyncExitStack() as held:
        connections = [await held.enter_async_context(engine.connect()) for _ in range(POOL)]
        found = [
            (
                await one.execute(
                    text("SELECT pg_backend_pid(), count(*) FROM pg_prepared_statements")
                )
            ).one()
            for one in connections
        ]
    await engine.dispose()
    assert len({pid for pid, _ in found}) == POOL
    return [count for _, count in found]


def test_mixed_load_of_several_processes_has_no_error_and_leaves_nothing(
    transaction_pooler: Pooler, database: str, pooled: ChassisSettings, tmp_path: Path
) -> None:
    variables = {
        "APP_DATABASE_URL": transaction_pooler.url(database),
        "APP_DATABASE_PGBOUNCER": "true",
    }
    done, errors = loads(variables, SECONDS, tmp_path)
    left = asyncio.run(prepared_statements(pooled))

    print(f"{PROCESSES} processes, {SECONDS} s: {done} operations, errors {errors}, left {left}")
    assert errors == {}
    assert done > 10 * SECONDS
    assert left == [0] * POOL


def test_the_load_does_fail_where_the_pooler_is_not_known(
    lenient_pooler: Pooler, database: str, tmp_path: Path
) -> None:
    _, errors = loads({"APP_DATABASE_URL": lenient_pooler.url(database)}, 2, tmp_path)

    assert sum(errors.values()) > 0


@pytest.mark.parametrize("spelling", ["url", "variable"])
def test_a_write_through_a_read_session_is_refused(
    transaction_pooler: Pooler, database: str, read_settings: ReadSettings, spelling: str
) -> None:
    url = transaction_pooler.url(database)
    settings = read_settings(
        APP_DATABASE_URL=f"{url}?pgbouncer=true" if spelling == "url" else url,
        APP_DATABASE_PGBOUNCER="true" if spelling == "variable" else "false",
    )
    values = {"mood": Mood.CALM, "tags": [], "moods": [], "data": {}}

    async def write() -> None:
        engine = create_read_engine(settings)
        factory = create_session_factory(settings, engine)
        async with session_scope(factory) as session:
            assert await session.scalar(text("SELECT 1")) == 1
            with pytest.raises(ReadOnlySessionError):
                await session.execute(insert(Note).values(values))
            session.add(Note(**values))
            with pytest.raises(ReadOnlySessionError):
                await session.commit()
        await engine.dispose()

    asyncio.run(write())


def test_a_pooler_that_is_not_known_says_which_variable_to_set(
    transaction_pooler: Pooler, database: str, read_settings: ReadSettings
) -> None:
    settings = read_settings(APP_DATABASE_URL=transaction_pooler.url(database))

    async def connect() -> None:
        engine = create_database_engine(settings)
        try:
            await engine.connect()
        finally:
            await engine.dispose()

    with pytest.raises(DatabaseUnavailableError, match="APP_DATABASE_PGBOUNCER=true"):
        asyncio.run(connect())


@pytest.mark.parametrize("known", [True, False])
def test_a_pooler_that_overlooks_parameters_is_noticed_at_start(
    lenient_pooler: Pooler,
    database: str,
    read_settings: ReadSettings,
    caplog: pytest.LogCaptureFixture,
    known: bool,
) -> None:
    settings = read_settings(
        APP_DATABASE_URL=lenient_pooler.url(database), APP_DATABASE_PGBOUNCER=str(known)
    )

    caplog.set_level("INFO")
    asyncio.run(report_budget(settings, processes=100))

    noticed = [
        record.levelname for record in caplog.records if record.name == connection_budget.__name__
    ]
    assert noticed == (["INFO"] if known else ["WARNING", "INFO"])
    assert ("set APP_DATABASE_PGBOUNCER=true" in caplog.text) is not known
    assert "shared by a pooler" in caplog.text


@pytest.mark.parametrize("told", ["variable", "url", "its refusal", "its behaviour"])
def test_migrations_refuse_a_transaction_pooler_and_name_the_variable(
    transaction_pooler: Pooler,
    lenient_pooler: Pooler,
    database: str,
    read_settings: ReadSettings,
    told: str,
) -> None:
    nowhere = Pooler(port=1)
    poolers = {"its refusal": transaction_pooler, "its behaviour": lenient_pooler}
    query = "?pgbouncer=true" if told == "url" else ""
    settings = read_settings(
        APP_DATABASE_URL=poolers.get(told, nowhere).url(database) + query,
        APP_DATABASE_PGBOUNCER=str(told == "variable"),
    )

    with pytest.raises(DatabaseSettingsError, match=r"^APP_ALEMBIC_DATABASE_URL: "):
        lock(settings)


@pytest.mark.parametrize("told", ["its refusal", "its behaviour"])
def test_a_copy_refuses_a_transaction_pooler_and_names_the_variable(
    transaction_pooler: Pooler,
    lenient_pooler: Pooler,
    database: str,
    read_settings: ReadSettings,
    told: str,
) -> None:
    poolers = {"its refusal": transaction_pooler, "its behaviour": lenient_pooler}
    settings = read_settings(APP_DATABASE_COPY_TARGET_URL=poolers[told].url(database))
    there = settings.with_migration_target(resolve_target(settings, None))

    with (
        pytest.raises(DatabaseSettingsError, match=r"^APP_DATABASE_COPY_TARGET_URL: a copy can't"),
        open_target(there),
    ):
        pass


def test_migrations_have_a_way_past_the_pooler(
    transaction_pooler: Pooler, plain_server: Cluster, database: str, read_settings: ReadSettings
) -> None:
    settings = read_settings(
        APP_DATABASE_URL=transaction_pooler.url(database),
        APP_DATABASE_PGBOUNCER="true",
        APP_ALEMBIC_DATABASE_URL=plain_server.url(database),
    )

    wait_for_database(settings)
    lock(settings)


def test_migrations_run_through_a_pooler_in_session_mode(
    session_pooler: Pooler, database: str, read_settings: ReadSettings
) -> None:
    lock(read_settings(APP_DATABASE_URL=session_pooler.url(database)))


def lock(settings: ChassisSettings) -> None:
    """Take the lock of migrations, as they do first of all."""
    with create_migration_engine(settings) as engine, hold_lock(engine, settings):
        pass
