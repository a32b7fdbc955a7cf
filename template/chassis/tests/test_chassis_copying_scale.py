"""A copy of many rows: how fast it is beside psycopg's own COPY, and what memory it takes.

20,000 rows in 20 tables, or 1,000,000 with CHASSIS_TEST_SCALE=full; `pytest -s` shows the figures.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chassis_depot import Depot, written
from chassis_stock import only_on
from chassis_warehouse import fill, metadata
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from sqlalchemy import MetaData, text

from chassis import ChassisSettings
from chassis.db import DatabaseSettings
from chassis.db.migrations.connect import open_connection
from chassis.db.migrations.upgrade import upgrade

FULL = os.environ.get("CHASSIS_TEST_SCALE") == "full"
ROWS = 1_000_000 if FULL else 20_000
# Above what the process has before: the interpreter's own memory differs by its release.
MOST_MEBIBYTES = 126
CREATE = """import chassis_warehouse as warehouse
    warehouse.metadata.create_all(op.get_bind())
    for number in range(11):
        op.create_table(
            f"orders_{number}",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("parent_id", sa.Integer, sa.ForeignKey(f"orders_{number}.id"), index=True),
            sa.Column("hen_id", sa.Integer, sa.ForeignKey("hens.id")),
            sa.Column("name", sa.String(100), nullable=False),
            sa.Column("amount", sa.Numeric(10, 2), nullable=False),
            sa.Column("is_paid", sa.Boolean, nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("key", sa.Uuid, unique=True),
            sa.Column("note", sa.Text),
        )"""
ORDERS = """WITH RECURSIVE numbers(n) AS (
        SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})
    INSERT INTO orders_{number} SELECT n, nullif(n % 50, 0), 1 + n % 4, 'order ' || n || ' ünï 🦄',
        n % 100000 / 100.0, n % 2, '2024-05-06 07:08:09.' || printf('%06d', n),
        lower(hex(randomblob(16))), CASE WHEN n % 3 THEN 'a note' || char(10) || n END
        FROM numbers"""
COPY = """
import json, re, sys, time
from contextlib import contextmanager
from pydantic import SecretStr
from chassis.db import DatabaseSettings
from chassis.db.address.urls import parse_url
from chassis.db.copying.copy import copy_to_postgres

package, here, there = sys.argv[1:]
began, seconds = {}, {}

def read_peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

@contextmanager
def track(step, rows):
    began[step] = time.monotonic()
    yield lambda more: None
    seconds[step] = time.monotonic() - began[step]

settings = DatabaseSettings(database_url=SecretStr(here))
before = read_peak()
report = copy_to_postgres(package, settings, parse_url(there, "TARGET_URL"), track=track)
memory = read_peak() - before
seconds["both"] = began["copying"] + seconds["copying"] - began["checking"]
print(json.dumps({"rows": report.rows, "all": report.seconds, "memory": memory, **seconds}))
"""


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        depot.add("1", CREATE)
        yield depot


@pytest.fixture
def here(depot: Depot, settings: ChassisSettings, tmp_path: Path) -> DatabaseSettings:
    """Make the file, for a copy whose memory can be measured."""
    only_on("postgres", settings)
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is measured on Linux")
    file = DatabaseSettings(database_url=SecretStr(f"sqlite:///{tmp_path}/app.db"))
    upgrade(depot.package, file)
    return file


def test_it_copies_many_rows_in_little_memory(
    depot: Depot, settings: ChassisSettings, here: DatabaseSettings
) -> None:
    fill(here, ROWS // 40)
    with open_connection(here) as connection:
        for number in range(11):
            rows = (ROWS - ROWS // 40 * 16 // 10) // 11
            connection.exec_driver_sql(ORDERS.format(number=number, rows=rows))
        connection.commit()

    found = copy_in_a_process(depot, here, settings)

    plain = measure_plain_copy(here, settings)
    rate, whole = (found["rows"] / found[step] for step in ("both", "all"))
    print(
        f"\n{found['rows']:,} rows: psycopg's COPY {plain:,.0f} rows/s; {rate:,.0f} rows/s from "
        f"the check of the first row to the last row and index ({rate / plain:.2f} of it), "
        f"{whole:,.0f} rows/s in all ({whole / plain:.2f}); checked in {found['checking']:.1f} s, "
        f"copied and mostly compared in {found['copying']:.1f} s, the rest compared in "
        f"{found['comparing']:.1f} s, {found['all']:.1f} s in all; {found['memory']:.0f} MiB"
    )
    assert found["rows"] > 0.9 * ROWS
    assert found["memory"] < MOST_MEBIBYTES


@pytest.mark.parametrize("value", ["randomblob(10000000)", "hex(randomblob(5000000))"])
def test_rows_of_10_mb_take_little_memory(
    depot: Depot, settings: ChassisSettings, here: DatabaseSettings, value: str
) -> None:
    column = "data" if value.startswith("random") else "text"
    with open_connection(here) as connection:
        for number in range(4):
            insert = "INSERT INTO kinds (id, text) VALUES (?, '')"
            connection.exec_driver_sql(insert, (number,))
        connection.exec_driver_sql(f"UPDATE kinds SET {column} = {value}")
        connection.commit()
    found = copy_in_a_process(depot, here, settings)
    print(f"\n4 rows of 10 MB, {value}: {found['memory']:.0f} MiB")
    assert found["memory"] < MOST_MEBIBYTES


def copy_in_a_process(
    depot: Depot, here: DatabaseSettings, there: DatabaseSettings
) -> dict[str, float]:
    """Copy in a process of its own, whose memory is the copy's alone."""
    urls = [one.database_url.get_secret_value() for one in (here, there) if one.database_url]
    paths = os.pathsep.join([str(Path(__file__).parent), str(depot.versions.parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", COPY, depot.package, *urls],
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_plain_copy(here: DatabaseSettings, there: DatabaseSettings) -> float:
    """Return how many rows a second psycopg copies that has them as Python's values already."""
    rows, seconds = 0, 0.0
    with open_connection(here) as source, open_connection(there) as target:
        orders = MetaData()
        orders.reflect(source, only=lambda name, _: name.startswith("orders_"))
        drop = "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) "
        for statement in target.scalars(
            text(drop + "FROM pg_constraint WHERE contype = 'f'")
        ).all():
            target.exec_driver_sql(statement.replace("%", "%%"))
        driver: Any = target.connection.driver_connection
        for table in [*metadata.tables.values(), *orders.tables.values()]:
            columns = [one for one in table.columns if one.computed is None]
            names = ", ".join('"' + one.name + '"' for one in columns).replace(
                'a "quoted"', 'a ""quoted""'
            )
            values = [
                tuple(
                    _wrap(value, name)
                    for name, value in zip(table.columns.keys(), row, strict=False)
                )
                for row in source.execute(table.select().with_only_columns(*columns))
            ]
            target.exec_driver_sql(f'TRUNCATE "{table.name}"')
            started = time.monotonic()
            with (
                driver.cursor() as cursor,
                cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN') as copy,
            ):
                for row in values:
                    copy.write_row(row)
            seconds += time.monotonic() - started
            rows += len(values)
        target.rollback()
    return rows / seconds


def _wrap(value: object, column: str) -> object:
    if column == "pickled" and value is not None:
        return b"pickled"
    if column in ("numbers", "words"):
        return value
    return (
        Jsonb(value) if isinstance(value, dict | list) or column in ("json", "document") else value
    )
