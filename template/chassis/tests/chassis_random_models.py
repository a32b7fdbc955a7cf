"""Random tables and rows, for copies: valid rows, and those with any value in any column."""

import contextlib
import random
import sqlite3
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from chassis.db import NAMING_CONVENTION

Chance = random.Random
NAMES = ("plain", "Capital", "ünï", 'a "quoted" one', "select", "per%cent", "it's; a", "tab_le")
TEXTS = (
    *("", " ", "plain", "Plain", "ünï 日本 🦄", "a\tb\nc\rd\\e\\N", "\\N", "\\."),
    "'\"%s{}",
    "\x01",
)
MOMENTS = tuple(datetime(1, 1, 2) + timedelta(3_600_000 * n // 9, n, n * 111_111) for n in range(9))
DOCUMENTS: tuple[Any, ...] = (
    {},
    [],
    "text",
    5,
    -0.0,
    1e300,
    True,
    {"b": [1.0, None, 'ü\\"\n'], "a": {"": ""}},
)


def pick(*values: Any) -> Callable[[Chance], Any]:
    """Return what picks one of the values."""
    return lambda chance: chance.choice(values)


def make_text(chance: Chance) -> str:
    """Make a text of up to 40 characters; some differ by their case alone."""
    return chance.choice(TEXTS) + chance.choice(["", str(chance.randrange(99))])


# A type, and what makes a value of it.
TYPES: tuple[tuple[Callable[[], Any], Callable[[Chance], Any]], ...] = (
    (sa.Boolean, pick(True, False)),
    (sa.SmallInteger, pick(-(2**15), 0, 2**15 - 1)),
    (sa.Integer, lambda chance: chance.randrange(-(2**31), 2**31)),
    (sa.BigInteger, pick(-(2**63), 2**63 - 1, 2**53 + 1, 0)),
    (lambda: sa.Numeric(10, 2), lambda chance: Decimal(chance.randrange(-(10**9), 10**9)) / 100),
    (lambda: sa.Numeric(30, 10), pick(Decimal("0.0000000001"), Decimal("-12345.678"), Decimal(0))),
    (sa.Numeric, pick(Decimal("0.0000001"), Decimal("1.5"), Decimal(10) ** 20)),
    (sa.Float, lambda c: c.choice([0.1, -0.0, 1e15, 1e16, 5e-324, 1.7e308, 2.0**53, c.random()])),
    (sa.REAL, pick(0.5, 1e10, 3.25, -0.0)),
    (lambda: sa.String(44), make_text),
    (sa.Text, lambda chance: make_text(chance) * chance.choice([1, 1, 300])),
    (lambda: sa.CHAR(3), pick("abc", "ü日x", "   ")),
    (sa.LargeBinary, lambda chance: chance.randbytes(chance.choice([0, 3, 3000]))),
    (sa.PickleType, pick({"some": [1, "two"]})),
    (sa.Uuid, lambda chance: uuid.UUID(int=chance.getrandbits(128))),
    (sa.Date, lambda chance: chance.choice(MOMENTS).date()),
    (sa.Time, pick(time(), time(23, 59, 59, 999_999), time(1, 2, 3, 400_000))),
    (lambda: sa.DateTime(timezone=True), lambda chance: chance.choice(MOMENTS).replace(tzinfo=UTC)),
    (sa.DateTime, pick(*MOMENTS)),
    (sa.Interval, pick(timedelta(), timedelta(-1, 5), timedelta(1), timedelta(400, 3, 250_000))),
    (sa.JSON, pick(*DOCUMENTS)),
    (lambda: sa.JSON().with_variant(JSONB(), "postgresql"), pick(*DOCUMENTS)),
    (lambda: ARRAY(sa.Integer).with_variant(sa.JSON(), "sqlite"), pick([], [1, 2], [-1, None])),
    (lambda: ARRAY(sa.Text).with_variant(sa.JSON(), "sqlite"), pick([], ["", 'a,"b\\', "NULL"])),
    (lambda: sa.Enum("red", "dark blue", name="color"), pick("red", "dark blue")),
    (lambda: sa.Enum("x", "y", name="axis", native_enum=False, length=9), pick("x", "y")),
)
KEYS = [TYPES[place] for place in (2, 3, 4, 9, 14, 17)]
STRICT = tuple(pair for pair in TYPES if pair[0] in (sa.Integer, sa.REAL, sa.Text))
# What older code, another program or a mistake leaves in a column of any type.
LEGACY: tuple[object, ...] = (
    *(None, 0, 1, 2, -1, 2**15, 2**31, -(2**63), 0.5, 1.0, -0.0, 1e15, 1e308, float("inf"), 5e-324),
    *(
        "",
        "x",
        "a\0b",
        "\\",
        "ÿ" * 3000,
        b"",
        b"\0\xff",
        sqlite3.Binary(b"text"),
        "1",
        "1.50",
        "1_0",
    ),
    *("true", " 1", "NaN", "red", "RED", "{}", "[1, 2]", '["a", [1]]', "[[1], [2, 3]]", "{'a': 1}"),
    *(r'{"a": "\u0000"}', r'"\ud800"', "1e400", "[1e200000]", '{"a": 1, "a": 2}', "[NaN]"),
    *("2024-05-06", "2024-05-06T07:08:09Z", "2024-05-06 07:08:09.5+02:00", "20240506T070809"),
    *("0001-01-01T00:00:00+02:00", "9999-12-31 23:59:59-02:00", "2024-02-30", "07:08", "24:00"),
    *("07:08:09+02:00", "0" * 32, "00000000-0000-0000-0000-000000000000", "{" + "0" * 32 + "}"),
    *("0" * 15 + " " + "0" * 16 + " 0", "ABCDEF" + "0" * 26, "abcdef" + "0" * 26),
)
NOT_UTF8 = "CAST(x'fffe41' AS TEXT)"


def make_models(seed: int) -> sa.MetaData:
    """Make tables with keys of all kinds or none, that refer to each other and to themselves."""
    chance = Chance(seed)
    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
    tables = [_make_table(metadata, name, chance) for name in chance.sample(NAMES, 4)]
    for number, table in enumerate(tables):
        parents = [one for one in tables if one.primary_key.columns and _fits(table, one)]
        if parents:
            parent = chance.choice(parents)
            _refer(table, parent, use_alter=tables.index(parent) > number)
    return metadata


def _make_table(metadata: sa.MetaData, name: str, chance: Chance) -> sa.Table:
    is_strict = chance.random() < 0.2
    types = STRICT if is_strict else TYPES
    keys = chance.sample(STRICT if is_strict else KEYS, chance.choice([0, 1, 1, 1, 2]))
    columns = [
        sa.Column(f"key {number}", kind(), primary_key=True, info={"make": make})
        for number, (kind, make) in enumerate(keys)
    ]
    for number, (kind, make) in enumerate(chance.choices(types, k=chance.randrange(1, 7))):
        is_simple = not isinstance(kind(), sa.JSON | ARRAY | sa.LargeBinary | sa.PickleType)
        columns.append(
            sa.Column(
                f"Column_{number} %",
                kind(),
                nullable=chance.random() < 0.8,
                unique=is_simple and chance.random() < 0.3,
                info={"make": make},
            )
        )
    counts = [kind for kind, _ in keys] == [sa.Integer] and chance.random() < 0.5
    table = sa.Table(
        name,
        metadata,
        *columns,
        sqlite_strict=is_strict,
        sqlite_with_rowid=not keys or counts or chance.random() < 0.6,
        sqlite_autoincrement=counts,
    )
    _add_extras(table, chance)
    return table


def _add_extras(table: sa.Table, chance: Chance) -> None:
    """Add what only some tables have: a computed column, a check, an index of an expression."""
    for column in [one for one in table.columns if not one.primary_key]:
        quoted = _quote(column.name)
        if isinstance(column.type, sa.Integer) and chance.random() < 0.5:
            table.append_column(
                sa.Column("double", column.type, sa.Computed(f"{quoted} / 2 * 2 + 1"))
            )
            return
        if isinstance(column.type, sa.Text) and chance.random() < 0.5:
            sa.Index(f"ix_{len(table.metadata.tables)}_lower", sa.func.lower(column), unique=True)
            return
        if isinstance(column.type, sa.Float) and chance.random() < 0.5:
            table.append_constraint(sa.CheckConstraint(column >= -1, name="not_low"))
            return


def _fits(table: sa.Table, parent: sa.Table) -> bool:
    """Return whether a table can refer to the parent; a strict one has few types."""
    return not table.dialect_options["sqlite"]["strict"] or bool(
        parent.dialect_options["sqlite"]["strict"]
    )


def _refer(table: sa.Table, parent: sa.Table, *, use_alter: bool) -> None:
    keys = list(parent.primary_key.columns)
    columns = [
        sa.Column(f"parent {number}", key.type, info={"parent": parent})
        for number, key in enumerate(keys)
    ]
    for column in columns:
        table.append_column(column)
    table.append_constraint(sa.ForeignKeyConstraint(columns, keys, use_alter=use_alter))


def make_rows(metadata: sa.MetaData, connection: sa.Connection, chance: Chance) -> None:
    """Write rows that SQLite and PostgreSQL both take."""
    for table in metadata.tables.values():
        for _ in range(chance.choice([0, 1, 8, 30])):
            row = {
                column.key: None
                if column.nullable and chance.random() < 0.2
                else column.info["make"](chance)
                for column in table.columns
                if "make" in column.info
            }
            connection.execute(table.insert().prefix_with("OR IGNORE"), row)
    for table in metadata.tables.values():
        columns = [one for one in table.columns if "parent" in one.info]
        if columns:
            parent = columns[0].info["parent"]
            found = connection.execute(sa.select(*parent.primary_key.columns)).all()
            for place in range(2 if found else 0):
                values = zip(columns, chance.choice(found), strict=True)
                statement = table.update().values({one.key: value for one, value in values})
                for key in list(table.primary_key.columns)[:1]:
                    some = connection.scalars(sa.select(key)).all()[place::2]
                    statement = statement.where(key.in_(some))
                connection.execute(statement)


def spoil_rows(
    metadata: sa.MetaData, driver: sqlite3.Connection, chance: Chance, cells: int
) -> None:
    """Put values of any kind into some cells, past the service."""
    for _ in range(cells):
        table = chance.choice(list(metadata.tables.values()))
        column = chance.choice([one for one in table.columns if one.computed is None])
        where = table.primary_key.columns.keys() or table.columns.keys()
        key, name = _quote(where[0]), _quote(table.name)
        (count,) = driver.execute(f"SELECT count(*) FROM {name}").fetchone()
        if not count:
            continue
        value = "?" if chance.random() < 0.95 else NOT_UTF8
        values = [chance.choice(LEGACY)] if value == "?" else []
        # A strict table refuses it.
        with contextlib.suppress(sqlite3.IntegrityError):
            driver.execute(
                # No key is read: one that was spoiled before may be no UTF-8.
                f"UPDATE OR IGNORE {name} SET {_quote(column.name)} = {value} "
                f"WHERE {key} IS (SELECT {key} FROM {name} LIMIT 1 OFFSET ?)",
                [*values, chance.randrange(count)],
            )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read_rows(metadata: sa.MetaData, connection: sa.Connection) -> dict[str, list[str]]:
    """Read every table as the service does, in an order that is the same on both databases."""
    return {
        table.name: sorted(
            repr([_unify(value, column) for value, column in zip(row, table.columns, strict=True)])
            for row in connection.execute(sa.select(*map(_without_members, table.columns)))
        )
        for table in metadata.tables.values()
    }


def _without_members(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return what reads texts that are no members, which both databases hold alike."""
    is_text = isinstance(column.type, sa.Enum) and not column.type.native_enum
    return sa.type_coerce(column, sa.String) if is_text else column


def _unify(value: Any, column: sa.Column[Any]) -> object:
    """Return the same for values that are equal, or known to be written otherwise."""
    match value:
        case Decimal():
            scale = column.type.scale if isinstance(column.type, sa.Numeric) else None
            return f"{value:.{scale}f}" if scale is not None else value.normalize()
        case str() if isinstance(column.type, sa.CHAR):
            return value.ljust(3)
        case list() | dict() | bool() | int() | float() if isinstance(column.type, sa.JSON):
            return sorted_json(value)
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC)
        case _:
            return value


def sorted_json(value: Any) -> str:
    """Return a document with keys in order, and numbers by value as JSONB has them."""
    match value:
        case dict():
            return (
                f"{{{', '.join(f'{key!r}: {sorted_json(value[key])}' for key in sorted(value))}}}"
            )
        case list():
            return f"[{', '.join(map(sorted_json, value))}]"
        case bool() | str() | None:
            return repr(value)
        case _:
            return repr(Decimal(repr(value)).normalize() or 0)
