"""The SQL of pending revisions is shown, for the configured database, and nothing is run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from chassis_depot import Depot, written
from chassis_sample.__main__ import run
from chassis_stock import executing, only_on
from click.testing import CliRunner
from sqlalchemy import inspect, text

from chassis import ChassisSettings
from chassis.db.migrations.authoring.sql import write_sql
from chassis.db.migrations.connect import open_connection
from chassis.db.migrations.revisions import UnknownRevisionError
from chassis.db.migrations.upgrade import upgrade


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        depot.add("1", "op.create_table('item', sa.Column('id', sa.Integer, primary_key=True))")
        yield depot


def tables(settings: ChassisSettings) -> set[str]:
    with open_connection(settings) as connection:
        return set(inspect(connection).get_table_names())


def test_it_is_from_the_revision_of_the_database_to_the_head(
    depot: Depot, settings: ChassisSettings
) -> None:
    first = write_sql(depot.package, settings)
    assert "CREATE TABLE item" in first
    assert "INSERT INTO alembic_version (version_num) VALUES ('1')" in first
    assert tables(settings) == set()

    upgrade(depot.package, settings)
    assert write_sql(depot.package, settings) == "-- nothing to do: the database is at 1"

    depot.add("2", "op.add_column('item', sa.Column('at', sa.DateTime(timezone=True)))")
    second = write_sql(depot.package, settings)
    kind = "DATETIME" if settings.database_target.backend == "sqlite" else "TIMESTAMP WITH TIME"
    assert f"ALTER TABLE item ADD COLUMN at {kind}" in second
    assert "CREATE TABLE" not in second
    assert "UPDATE alembic_version SET version_num='2'" in second


def test_it_is_sql_that_runs(depot: Depot, settings: ChassisSettings) -> None:
    sql = write_sql(depot.package, settings)
    with executing(settings) as connection:
        for statement in sql.replace("BEGIN;", "").replace("COMMIT;", "").strip("; \n").split(";"):
            connection.execute(text(statement))
    assert write_sql(depot.package, settings) == "-- nothing to do: the database is at 1"


def test_a_revision_that_asks_the_database_is_named(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.add("2", "op.get_bind().execute(sa.text('SELECT 1')).scalar() + 1")
    with pytest.raises(CommandError, match=r"no SQL for what asks the database in 2.py, line 12: "):
        write_sql(depot.package, settings)


def test_on_sqlite_a_rebuild_is_named(depot: Depot, settings: ChassisSettings) -> None:
    only_on("sqlite", settings)
    depot.add("2", "with op.batch_alter_table('item') as batch: batch.drop_column('id')")
    with pytest.raises(CommandError, match=r"no SQL for what asks the database in 2.py, line 12: "):
        write_sql(depot.package, settings)


def test_a_database_of_a_newer_release_is_an_error(depot: Depot, settings: ChassisSettings) -> None:
    upgrade(depot.package, settings)
    with executing(settings) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    with pytest.raises(UnknownRevisionError):
        write_sql(depot.package, settings)


def test_the_command_prints_the_sql_alone_and_makes_no_file() -> None:
    result = CliRunner().invoke(run, ["migrate", "--sql"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("BEGIN;\n\nCREATE TABLE alembic_version")
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lint-after", "base"], "--lint-after is for --check: write migrate --check"),
        (["--sql", "--check"], "--sql and --check exclude each other"),
    ],
)
def test_options_that_say_nothing_together_are_refused(options: list[str], says: str) -> None:
    result = CliRunner().invoke(run, ["migrate", *options])
    assert (result.exit_code, says in result.stderr) == (2, True)
