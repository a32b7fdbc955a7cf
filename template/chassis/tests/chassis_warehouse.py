"""Tables with every type that the ORM offers, and rows of them, for copies."""

import json
import random
import uuid
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from chassis.db import NAMING_CONVENTION, DatabaseSettings
from chassis.db.migrations.connect import open_connection

TEXTS = (
    "",
    " ",
    "plain",
    "ünï çødé 日本語 🦄",
    "a\tb\nc\rd\\e\\N",
    "\\N",
    "NULL",
    "'\"%s{}",
    "\x01\x7f",
)
metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)

kinds = sa.Table(
    "kinds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("flag", sa.Boolean),
    sa.Column("small", sa.SmallInteger),
    sa.Column("whole", sa.Integer),
    sa.Column("big", sa.BigInteger),
    sa.Column("money", sa.Numeric(10, 2)),
    sa.Column("exact", sa.Numeric),
    sa.Column("ratio", sa.Float),
    sa.Column("real", sa.REAL),
    sa.Column("short", sa.String(40)),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("fixed", sa.CHAR(5)),
    sa.Column("data", sa.LargeBinary),
    sa.Column("pickled", sa.PickleType),
    sa.Column("uuid", sa.Uuid, unique=True),
    sa.Column("day", sa.Date),
    sa.Column("hour", sa.Time),
    sa.Column("moment", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime),
    sa.Column("length", sa.Interval),
    sa.Column("json", sa.JSON(none_as_null=True)),
    sa.Column("document", sa.JSON(none_as_null=True).with_variant(JSONB(), "postgresql")),
    sa.Column("numbers", ARRAY(sa.Integer).with_variant(sa.JSON(none_as_null=True), "sqlite")),
    sa.Column("words", ARRAY(sa.Text).with_variant(sa.JSON(none_as_null=True), "sqlite")),
    sa.Column("color", sa.Enum("red", "green", "dark blue", name="color")),
    sa.Column("shape", sa.Enum("round", "square", name="shape", native_enum=False, length=20)),
    sa.Column("double", sa.Integer, sa.Computed("whole * 2", persisted=True)),
)
trees = sa.Table(
    "trees",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("parent_id", sa.ForeignKey("trees.id")),
    sa.Column("name", sa.String(40), nullable=False, unique=True),
)
hens = sa.Table(
    "hens",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("egg_id", sa.ForeignKey("eggs.id", use_alter=True), nullable=False),
)
eggs = sa.Table(
    "eggs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("hen_id", sa.ForeignKey("hens.id", ondelete="CASCADE"), nullable=False),
)
trees_of_hens = sa.Table(
    "trees_of_hens",
    metadata,
    sa.Column("tree_id", sa.ForeignKey("trees.id"), primary_key=True),
    sa.Column("hen_id", sa.ForeignKey("hens.id"), primary_key=True),
)
log = sa.Table(
    "log",
    metadata,
    sa.Column("line", sa.Text),
    sa.Column("number", sa.Integer, sa.CheckConstraint("number >= 0", name="not_negative")),
)
reserved = sa.Table(
    "order",
    metadata,
    sa.Column("user", sa.Integer, primary_key=True),
    sa.Column("select", sa.String(10), nullable=False),
    sa.Column('a "quoted" % column', sa.Text),
    sa.Column("Capital", sa.Text),
)
counted = sa.Table(
    "counted",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text),
    sqlite_autoincrement=True,
)
tickets = sa.Table(
    "tickets",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True, start=100), primary_key=True),
    sa.Column("number", sa.Integer, sa.Sequence("ticket_numbers", metadata=metadata)),
)
empty = sa.Table("empty", metadata, sa.Column("id", sa.Integer, primary_key=True))


def make_kind(chance: random.Random, number: int) -> dict[str, Any]:
    """Make a row of all types, with NULLs among the values."""
    moment = datetime(1, 1, 2, tzinfo=UTC) + timedelta(
        days=chance.randrange(3_650_000), microseconds=chance.choice([0, 1, 100_000, 999_999])
    )
    values: dict[str, Any] = {
        "flag": chance.choice([True, False]),
        "small": chance.choice([-(2**15), 0, 2**15 - 1]),
        "whole": chance.choice([-(2**30), -1, 0, 2**30 - 1]),
        "big": chance.choice([-(2**63), 2**63 - 1, 2**53 + 1]),
        "money": Decimal(chance.randrange(-(10**9), 10**9)) / 100,
        "exact": chance.choice([Decimal("0.0000001"), Decimal("1.5"), Decimal(100)]),
        "ratio": chance.choice([0.1, -0.0, 1e23, 5e-324, 1e16, 2**53 + 0.0, chance.random()]),
        "real": chance.choice([0.5, 1e10, 3.25]),
        "short": chance.choice(TEXTS),
        "fixed": chance.choice(["abcde", "ab   ", "ü日本  "]),
        "data": chance.choice([b"", b"\0\\\t\n\xff", chance.randbytes(20)]),
        "pickled": {"some": [1, "two"]},
        "uuid": uuid.UUID(int=chance.getrandbits(128)),
        "day": moment.date(),
        "hour": chance.choice([time(), time(23, 59, 59, 999_999), time(1, 2, 3, 400_000)]),
        "moment": moment,
        "local": moment.replace(tzinfo=None),
        "length": chance.choice(
            [timedelta(), timedelta(days=-1, seconds=5), timedelta(1), timedelta(400, 3, 250_000)]
        ),
        "json": chance.choice([{}, [], "text", 5, 1.5, {"b": [1.0, None, 'ü\\"\n'], "a": True}]),
        "document": chance.choice([{"zz": 1, "a": {"x": 1e3, "long": 1.10}}, [1, "1"], 7, "é"]),
        "numbers": chance.choice([[], [1, 2, 3], [-1]]),
        "words": chance.choice([[], ["", "a,b", 'q"uo\\te', "NULL", "ünï"], [" "]]),
        "color": chance.choice(["red", "green", "dark blue"]),
        "shape": chance.choice(["round", "square"]),
    }
    present = {name: value if chance.random() > 0.15 else None for name, value in values.items()}
    return present | {"id": number, "text": chance.choice(TEXTS)}


def fill(settings: DatabaseSettings, rows: int, seed: int = 1) -> None:
    """Write so many rows of types, and a tenth of that into the others."""
    chance = random.Random(seed)
    some = range(1, max(rows // 10, 5))
    with open_connection(settings) as connection:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        connection.execute(kinds.insert(), [make_kind(chance, one) for one in range(1, rows + 1)])
        parents = [{"id": one, "parent_id": one + 1, "name": f"tree {one}"} for one in some]
        parents[-1]["parent_id"] = None
        connection.execute(trees.insert(), parents)
        connection.execute(
            hens.insert(), [{"id": one, "egg_id": len(some) + 1 - one} for one in some]
        )
        connection.execute(eggs.insert(), [{"id": one, "hen_id": one} for one in some])
        connection.execute(trees_of_hens.insert(), [{"tree_id": 1, "hen_id": one} for one in some])
        connection.execute(
            log.insert(), [{"line": TEXTS[one % 9], "number": one % 3} for one in some]
        )
        connection.execute(
            reserved.insert(),
            [
                {"user": one, "select": "x", 'a "quoted" % column': None, "Capital": "Ä"}
                for one in some
            ],
        )
        connection.execute(tickets.insert(), [{"id": one, "number": one + 500} for one in some])
        connection.execute(counted.insert(), [{"id": one} for one in some])
        connection.execute(counted.delete().where(counted.c.id > 2))
        connection.commit()


def read(settings: DatabaseSettings) -> dict[str, list[str]]:
    """Read every table as the service does, in an order that is the same on both databases."""
    with open_connection(settings) as connection:
        return {
            table.name: sorted(
                repr([_unify(value) for value in row]) for row in connection.execute(table.select())
            )
            for table in metadata.tables.values()
        }


def _unify(value: Any) -> object:
    """Return what is the same for equal values: JSONB sorts keys, numbers have two spellings."""
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    return value.normalize() if isinstance(value, Decimal) else value
