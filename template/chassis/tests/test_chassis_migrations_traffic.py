"""Migrations beside traffic: short waits for a busy table, nothing twice, no index forgotten."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, Timer

import pytest
from chassis_depot import Depot, written
from chassis_logins import administered
from chassis_stock import changed, executing, only_on
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from chassis import ChassisSettings
from chassis.commands.doctor import examine
from chassis.db import DatabaseSettings, DatabaseUnavailableError
from chassis.db.migrations import attempts
from chassis.db.migrations.upgrade import upgrade

TABLES = (
    "op.create_table('bin', sa.Column('id', sa.Integer));"
    "op.create_table('tries', sa.Column('revision', sa.String(9)));"
    "op.create_table('other', sa.Column('id', sa.Integer))"
)
ALTER = "op.add_column('bin', sa.Column('size', sa.Integer))"
# A sequence keeps its number through a rollback.
COUNT = "op.execute(\"SELECT nextval('runs')\")"
CONCURRENT = (
    "with op.get_context().autocommit_block():"
    " op.create_index('ix_other', 'other', ['id'], postgresql_concurrently=True{})"
)


@pytest.fixture
def depot(tmp_path: Path, settings: ChassisSettings) -> Iterator[Depot]:
    """Yield a package whose first revision is applied."""
    only_on("postgres", settings)
    with written(tmp_path) as depot:
        depot.add("1", TABLES)
        upgrade(depot.package, settings)
        with executing(settings) as connection:
            connection.execute(text("CREATE SEQUENCE runs"))
        yield depot


@contextmanager
def used(settings: ChassisSettings, by: str = "SELECT * FROM bin") -> Iterator[Timer]:
    """Use a table in an open transaction; the timer ends it once it is started."""
    with administered(settings) as admin:
        user = admin.execution_options(isolation_level="READ COMMITTED")
        user.execute(text(by))
        timer = Timer(2.5, user.rollback)
        yield timer
        timer.cancel()
        if timer.is_alive():
            timer.join()
        user.rollback()


def ask(settings: DatabaseSettings, query: str) -> object:
    with executing(settings) as connection:
        return connection.scalar(text(query))


def test_a_busy_table_is_tried_for_again_until_it_is_free(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    depot.add("2", f"{COUNT}; op.execute(\"INSERT INTO tries VALUES ('2')\"); {ALTER}")

    with used(settings) as timer:
        timer.start()
        upgrade(depot.package, settings)

    assert "a table is in use" in caplog.text
    assert ask(settings, "SELECT last_value FROM runs") in (2, 3)
    assert ask(settings, "SELECT count(*) FROM tries") == 1
    assert ask(settings, "SELECT version_num FROM alembic_version") == "2"


def test_nobody_waits_for_longer_than_a_try(
    depot: Depot, settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "TRY_SECONDS", 0.3)
    depot.add("2", ALTER)
    waiting = Thread(target=upgrade, args=[depot.package, settings])

    with used(settings) as timer:
        timer.start()
        waiting.start()
        with executing(settings) as connection:
            connection.execute(text("SET lock_timeout = '1s'"))
            while waiting.is_alive():
                connection.execute(text("SAVEPOINT one"))
                connection.execute(text("SELECT id FROM bin"))
                connection.execute(text("ROLLBACK TO one"))

    waiting.join()
    assert ask(settings, "SELECT version_num FROM alembic_version") == "2"


def test_a_table_that_stays_in_use_ends_the_migration(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.add("2", ALTER)

    with used(settings), pytest.raises(DatabaseUnavailableError, match="APP_DATABASE_WAIT_SEC"):
        upgrade(depot.package, changed(settings, database_wait_seconds=0.5))

    assert ask(settings, "SELECT version_num FROM alembic_version") == "1"


@pytest.mark.parametrize(
    "first",
    [CONCURRENT.format(""), "op.get_bind().commit()"],
    ids=["an autocommit block", "a commit of its own"],
)
def test_a_revision_that_has_committed_a_part_is_not_run_twice(
    depot: Depot, settings: ChassisSettings, first: str
) -> None:
    depot.add("2", f"{COUNT}\n    {first}\n    {ALTER}")

    with used(settings), pytest.raises(DatabaseUnavailableError, match="committed a part"):
        upgrade(depot.package, settings)

    assert ask(settings, "SELECT last_value FROM runs") == 1
    assert ask(settings, "SELECT version_num FROM alembic_version") == "1"


def test_whole_revisions_before_the_busy_one_are_kept_and_not_run_twice(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.configure(options="transaction_per_migration=True")
    depot.add("2", f"{COUNT}\n    {CONCURRENT.format('')}")
    depot.add("3", ALTER)

    with used(settings) as timer:
        timer.start()
        upgrade(depot.package, settings)

    assert ask(settings, "SELECT last_value FROM runs") == 1
    assert ask(settings, "SELECT version_num FROM alembic_version") == "3"


def test_a_concurrent_index_waits_for_the_transactions_that_are_open(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.add("2", CONCURRENT.format(""))

    with used(settings, "INSERT INTO other VALUES (7)") as timer:
        timer.start()
        upgrade(depot.package, changed(settings, database_lock_timeout_seconds=0.2))

    assert ask(settings, "SELECT bool_and(indisvalid) FROM pg_index") is True


@pytest.mark.parametrize("name", ["ix_other", "Größe"])
def test_an_invalid_index_is_named_with_its_cure(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with executing(settings) as connection:
        connection.execute(text("INSERT INTO other VALUES (1), (1)"))
    depot.add("2", CONCURRENT.format(", unique=True").replace("ix_other", name))

    with pytest.raises(IntegrityError):
        upgrade(depot.package, settings)

    cure = re.search(r"DROP INDEX CONCURRENTLY \S+\.\S+(?=, then)", caplog.text)
    assert cure is not None
    findings = examine(settings, depot.package).findings
    (found,) = [one for one in findings if one.subject == "index"]
    assert (found.level, cure[0] in found.advice) == ("problem", True)

    with administered(settings) as admin:
        admin.execute(text(cure[0]))
        admin.execute(text("TRUNCATE other"))
    caplog.clear()
    upgrade(depot.package, settings)
    assert "INVALID" not in caplog.text
    with executing(settings) as connection:
        assert [one["name"] for one in inspect(connection).get_indexes("other")] == [name]


def test_an_index_that_is_skipped_because_it_is_there_but_invalid_is_named(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with executing(settings) as connection:
        connection.execute(text("INSERT INTO other VALUES (1), (1)"))
    depot.add("2", CONCURRENT.format(", unique=True, if_not_exists=True"))
    with pytest.raises(IntegrityError):
        upgrade(depot.package, settings)
    caplog.clear()

    upgrade(depot.package, settings)

    assert "the index public.ix_other of public.other is INVALID" in caplog.text
