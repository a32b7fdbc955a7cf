"""Copies of random tables with random rows: equal, or refused before a row is written.

Some dozens of them, or 1,000 with CHASSIS_TEST_SCALE=full.
"""

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from chassis_depot import written
from chassis_random_models import make_models, make_rows, read_rows, spoil_rows
from chassis_stock import only_on
from pydantic import SecretStr
from sqlalchemy import MetaData
from test_chassis_copying import track

from chassis import ChassisSettings
from chassis.db import DatabaseSettings
from chassis.db.copying.copy import copy_to_postgres
from chassis.db.copying.errors import CopyError
from chassis.db.migrations.connect import open_connection
from chassis.db.migrations.upgrade import upgrade

FULL = os.environ.get("CHASSIS_TEST_SCALE") == "full"
MODELS = 200 if FULL else 8
FILES = 5
START = int(os.environ.get("CHASSIS_TEST_SEED", "0"))


@pytest.mark.parametrize("seed", range(START, START + MODELS))
def test_a_copy_is_equal_or_refused_before_a_row_is_written(
    seed: int, tmp_path: Path, settings: ChassisSettings
) -> None:
    only_on("postgres", settings)
    metadata = make_models(seed)
    chance = random.Random(seed)
    with written(tmp_path) as depot:
        depot.add(
            "1",
            "from chassis_random_models import make_models\n"
            f"    make_models({seed}).create_all(op.get_bind())",
        )
        for number in range(FILES):
            here = DatabaseSettings(database_url=SecretStr(f"sqlite:///{tmp_path}/{number}.db"))
            upgrade(depot.package, here)
            with open_connection(here) as connection:
                connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
                make_rows(metadata, connection, chance)
                connection.commit()
            spoiled = number % 2 * chance.choice([1, 2, 5])
            with closing(sqlite3.connect(tmp_path / f"{number}.db")) as driver, driver:
                spoil_rows(metadata, driver, chance, spoiled)
            before = read_all(settings, metadata)
            try:
                copy_to_postgres(
                    depot.package, here, settings.database_target, track=track, overwrite=number > 0
                )
                expected = read_all(here, metadata)
            except CopyError as error:
                if not spoiled or "no row was written" not in str(error):
                    raise
                expected = before
            assert read_all(settings, metadata) == expected


def read_all(settings: DatabaseSettings, metadata: MetaData) -> dict[str, list[str]] | None:
    with open_connection(settings) as connection:
        if not connection.dialect.has_table(connection, next(iter(metadata.tables))):
            return {name: [] for name in metadata.tables}
        return read_rows(metadata, connection)
