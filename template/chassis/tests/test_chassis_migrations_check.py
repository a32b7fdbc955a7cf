"""A rehearsal of the migrations: what it finds, and that it leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from chassis_depot import Depot, written
from chassis_logins import administered
from sqlalchemy import text

from chassis import ChassisSettings
from chassis.db.migrations.check import check_migrations

ADD = "op.create_table('bin', sa.Column('id', sa.Integer, primary_key=True))"
DROP = "op.drop_table('bin')"


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        yield depot


def databases(settings: ChassisSettings) -> set[str]:
    """Name what a rehearsal could leave: databases, or files beside the configured one."""
    if settings.database_target.backend == "sqlite":
        return {
            file.name for file in Path(settings.database_target.url.database or "").parent.iterdir()
        }
    with administered(settings) as admin:
        return set(
            admin.scalars(text("SELECT datname FROM pg_database WHERE datname ~ '^rehearsal'"))
        )


def test_migrations_that_are_in_order(depot: Depot, settings: ChassisSettings) -> None:
    before = databases(settings)
    depot.add("1", ADD, DROP)
    depot.add("2", DROP, ADD)

    check_migrations(depot.package, settings)

    assert databases(settings) == before


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "says"),
    [
        (ADD, DROP, "ahead of the migrations: remove_table bin"),
        (f"{ADD}; {DROP}", ADD, "the second upgrade to the head fails"),
        ("pass", "raise NotImplementedError", "downgrade to the base fails: NotImplementedError"),
        ("raise RuntimeError('no')", "pass", "the upgrade to the head fails: RuntimeError: no"),
    ],
    ids=["drift", "a downgrade that leaves a table", "no downgrade", "a broken upgrade"],
)
def test_what_is_wrong_is_named(
    depot: Depot, settings: ChassisSettings, upgrade: str, downgrade: str, says: str
) -> None:
    before = databases(settings)
    depot.add("1", upgrade, downgrade)

    with pytest.raises(CommandError, match=says):
        check_migrations(depot.package, settings)

    assert databases(settings) == before
