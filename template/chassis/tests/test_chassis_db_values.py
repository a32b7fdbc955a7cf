"""What statements make of values: the same on both databases, or refused."""

import enum
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from chassis_stock import only_on
from sqlalchemy import UUID as ANY_UUID
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    DefaultClause,
    Double,
    Enum,
    Float,
    Index,
    Interval,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
    Uuid,
    cast,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import UUID as POSTGRES_UUID
from sqlalchemy.exc import (
    CompileError,
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from chassis.db import Base, DatabaseSettings
from chassis.db.base import NAMING_CONVENTION
from chassis.db.errors import Failure, InvalidValueError, classify
from chassis.db.migrations.authoring.defaults import render_default
from chassis.db.migrations.connect import open_connection

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MONTH = timedelta(days=30)


class Measure(Base):
    """Keeps these tables apart from those of other tests."""

    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Reading(Measure):
    __tablename__ = "reading"
    __table_args__ = (
        Index("uq_reading_name", "name", unique=True, postgresql_where=text("ends IS NULL")),
        Index("uq_reading_day", "day", unique=True, postgresql_where=Column("id") > 1),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    made: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    marked: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("CURRENT_TIMESTAMP")
    )
    ends: Mapped[datetime | None]
    day: Mapped[date | None]
    took: Mapped[timedelta | None] = mapped_column(Interval)
    name: Mapped[str | None]
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    amount: Mapped[Decimal | None] = mapped_column(Numeric(30, 8))
    free: Mapped[Decimal | None] = mapped_column(Numeric)
    level: Mapped[float | None] = mapped_column(Float)
    slope: Mapped[float | None] = mapped_column(Double)
    details: Mapped[dict[str, Any] | None]
    colour: Mapped[Colour | None]
    shade: Mapped[str | None] = mapped_column(Enum("light", "dark", name="shade"))
    loose: Mapped[str | None] = mapped_column(Enum("a", "b", name="loose", native_enum=False))
    rank: Mapped[int | None] = mapped_column(SmallInteger)
    stock: Mapped[int | None]
    distance: Mapped[int | None] = mapped_column(BigInteger)
    code: Mapped[str | None] = mapped_column(String(5))
    notes: Mapped[str | None] = mapped_column(Text)
    key: Mapped[UUID | None] = mapped_column(Uuid)
    token: Mapped[UUID | None] = mapped_column(ANY_UUID)
    badge: Mapped[UUID | None] = mapped_column(POSTGRES_UUID)


@pytest.fixture
def settings(settings: DatabaseSettings) -> DatabaseSettings:
    """Give settings on a database with the tables."""
    with open_connection(settings) as connection:
        Measure.metadata.create_all(connection)
        connection.commit()
    return settings


async def store(session: AsyncSession, **values: Any) -> Reading:
    reading = Reading(**values)
    session.add(reading)
    await session.commit()
    session.expunge_all()
    return reading


@pytest.mark.parametrize("name", ["made", "marked", "ends"])
async def test_a_moment_of_the_server_is_equal_to_itself(name: str, session: AsyncSession) -> None:
    column = Reading.metadata.tables["reading"].c[name]
    await store(session)
    await session.execute(update(Reading).values(ends=func.now()))
    moment = await session.scalar(select(column))
    assert moment is not None
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    same = select(func.count()).where(column == moment)
    assert await session.scalar(same) == 1
    assert await session.scalar(same.where(column < moment)) == 0


async def test_pages_by_a_moment_of_the_server_repeat_no_row(session: AsyncSession) -> None:
    await store(session)
    last = await session.scalar(select(Reading.made))
    assert (await session.scalars(select(Reading.id).where(Reading.made < last))).all() == []


async def test_what_the_server_stores_is_comparable_with_itself(session: AsyncSession) -> None:
    await store(session)
    made = await session.scalar(select(Reading.made))
    await session.execute(update(Reading).values(ends=made, made=made))
    assert await session.scalar(select(Reading.id).where(Reading.ends == Reading.made)) == 1


@pytest.mark.parametrize("function", [func.now(), func.current_timestamp()])
async def test_now_is_between_two_moments_of_python(function: Any, session: AsyncSession) -> None:
    second = timedelta(seconds=1)
    await store(session, ends=datetime.now(UTC) + 60 * second)
    assert await session.scalar(select(Reading.id).where(Reading.ends > function)) == 1
    await session.execute(update(Reading).values(ends=datetime.now(UTC) - 60 * second))
    assert await session.scalar(select(Reading.id).where(Reading.ends > function)) is None


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (Reading.ends < func.now() - MONTH, True),
        (Reading.ends > func.now() - MONTH, False),
        (Reading.ends + MONTH < func.now(), True),
        (func.now() - Reading.ends > MONTH, True),
        (Reading.day - 1 == date(2019, 12, 31), True),
    ],
)
async def test_dates_are_calculated_with_or_not_at_all(
    condition: Any, holds: bool, session: AsyncSession
) -> None:
    await store(session, ends=LONG_AGO, day=LONG_AGO.date(), took=timedelta(hours=1))
    statement = select(func.count()).select_from(Reading).where(condition)
    if session.get_bind().dialect.name == "sqlite":
        with pytest.raises(CompileError, match="SQLite can't calculate with dates and times"):
            await session.execute(statement)
    else:
        assert await session.scalar(statement) == holds


async def test_a_difference_of_moments_is_a_time_span(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    only_on("postgres", settings)
    await store(session, ends=LONG_AGO)
    assert await session.scalar(select(Reading.ends + MONTH - Reading.ends)) == MONTH
    assert await session.scalar(select(Reading.ends + MONTH)) == LONG_AGO + MONTH
    age: Any = await session.scalar(select(Reading.made - Reading.ends))
    assert age > MONTH


async def test_dates_that_python_calculated_are_compared(session: AsyncSession) -> None:
    await store(session, ends=LONG_AGO, took=timedelta(hours=1))
    old = select(Reading.id).where(Reading.ends < datetime.now(UTC) - MONTH)
    assert await session.scalar(old) == 1
    assert await session.scalar(select(Reading.id).where(Reading.took < MONTH)) == 1


async def test_a_moment_is_cast_to_its_day(session: AsyncSession) -> None:
    await store(session, ends=datetime(2024, 2, 29, 23, 59, tzinfo=UTC))
    day = cast(Reading.ends, Date)
    assert await session.scalar(select(day)) == date(2024, 2, 29)
    assert await session.scalar(select(Reading.id).where(day == date(2024, 2, 29))) == 1
    assert (await session.execute(select(day, func.count()).group_by(day))).all() == [
        (date(2024, 2, 29), 1)
    ]


@pytest.mark.parametrize("kind", [DateTime, Time, Interval])
async def test_a_cast_that_sqlite_would_do_to_a_number_is_refused(
    kind: Any, session: AsyncSession, settings: DatabaseSettings
) -> None:
    only_on("sqlite", settings)
    with pytest.raises(CompileError, match="SQLite can't cast to"):
        await session.execute(select(cast(Reading.ends, kind)))


async def test_other_casts_stay(session: AsyncSession) -> None:
    await store(session, price=Decimal("2.50"))
    assert await session.scalar(select(cast(Reading.id, String))) == "1"
    assert await session.scalar(select(cast(Reading.price, Float))) == 2.5


@pytest.mark.parametrize("operation", [Reading.id + 1, Reading.id * 2, Reading.price + 1])
async def test_numbers_are_calculated_with(operation: Any, session: AsyncSession) -> None:
    await store(session, price=Decimal(1))
    assert await session.scalar(select(operation)) == 2


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("price", "19.99"),
        ("amount", "123456789012.12300000"),
        ("amount", "0.00000001"),
        ("amount", "-99999999999999.00000000"),
        ("free", "1.123456789012345"),
        ("free", "0.1"),
        ("free", "123456789012.123"),
    ],
)
async def test_a_number_comes_back_digit_by_digit(
    name: str, number: str, session: AsyncSession
) -> None:
    await store(session, **{name: Decimal(number)})
    column = Reading.metadata.tables["reading"].c[name]
    found = await session.scalar(select(column))
    assert str(found) == str(Decimal(number))
    assert await session.scalar(select(Reading.id).where(column == Decimal(number))) == 1


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("amount", "123456789012.12345678"),
        ("free", "0.12345678901234567890"),
        ("free", "NaN"),
    ],
)
async def test_a_number_is_kept_or_refused(name: str, number: str, session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        with pytest.raises(Exception, match="SQLite holds 15 digits") as raised:
            await store(session, **{name: Decimal(number)})
        assert classify(raised.value) is Failure.INVALID
    else:
        await store(session, **{name: Decimal(number)})
        found = await session.scalar(select(Reading.metadata.tables["reading"].c[name]))
        assert str(found) == number


async def test_a_float_is_no_numeric(session: AsyncSession) -> None:
    await store(session, level=0.1234567890123456)
    assert await session.scalar(select(Reading.level)) == 0.1234567890123456


@pytest.mark.parametrize(("name", "value"), [("colour", "green"), ("shade", "mauve")])
async def test_no_member_of_an_enum_is_an_invalid_value(
    name: str, value: str, session: AsyncSession
) -> None:
    for statement in (
        insert(Reading).values({name: value}),
        update(Reading).values({name: value}),
        select(Reading.id).where(Reading.metadata.tables["reading"].c[name] == value),
    ):
        with pytest.raises(Exception, match="enum") as raised:
            await session.execute(statement)
        assert classify(raised.value) is Failure.INVALID
        await session.rollback()


async def test_members_of_an_enum_come_back(session: AsyncSession) -> None:
    await store(session, colour=Colour.RED, shade="dark", loose="a")
    await store(session)
    names: list[Any] = [Reading.colour, Reading.shade, Reading.loose]
    rows = await session.execute(select(*names).order_by(Reading.id))
    assert [tuple(row) for row in rows] == [(Colour.RED, "dark", "a"), (None, None, None)]
    assert await session.scalar(select(Reading.id).where(Reading.loose.like("a%"))) == 1


async def test_a_partial_unique_index_is_partial_on_both(session: AsyncSession) -> None:
    await store(session, name="a", ends=LONG_AGO, day=LONG_AGO.date())
    await store(session, name="a", ends=LONG_AGO, day=LONG_AGO.date())
    await store(session, name="a")
    for clash in ({"name": "a"}, {"day": LONG_AGO.date()}):
        with pytest.raises(IntegrityError):
            await store(session, **clash)
        await session.rollback()


async def test_like_tells_small_letters_from_capitals(session: AsyncSession) -> None:
    await store(session, name="Pencil")
    for condition, holds in (
        (Reading.name.like("pen%"), False),
        (Reading.name.contains("PEN"), False),
        (Reading.name.startswith("Pen"), True),
        (Reading.name.ilike("pEN%"), True),
        (Reading.name.icontains("CIL"), True),
    ):
        found = await session.scalar(select(Reading.id).where(condition))
        assert (found is not None) == holds, str(condition)


def test_a_check_without_a_name_is_named_by_its_table() -> None:
    with pytest.raises(InvalidRequestError, match=r'table nameless: CheckConstraint\("a > 0"\)'):

        class Nameless(Measure):
            __tablename__ = "nameless"
            __table_args__ = (CheckConstraint("a > 0"),)

            a: Mapped[int] = mapped_column(primary_key=True)


def test_what_sqlalchemy_names_itself_needs_no_name() -> None:
    class Named(Measure):
        __tablename__ = "named"
        __table_args__ = (CheckConstraint("id > 0", name="positive"),)

        id: Mapped[int] = mapped_column(primary_key=True)
        flag: Mapped[bool] = mapped_column(Boolean(create_constraint=True, name="flag_known"))

    table = Named.metadata.tables["named"]
    checks = {str(one.name) for one in table.constraints if isinstance(one, CheckConstraint)}
    assert checks == {"ck_named_positive", "ck_named_flag_known"}
    Named.metadata.remove(table)


def test_the_default_of_a_table_that_is_there_is_portable(settings: DatabaseSettings) -> None:
    with open_connection(settings) as connection:
        columns = inspect(connection).get_columns("reading")
    found = {column["name"]: column["default"] for column in columns}
    for name in ("made", "marked"):
        default = DefaultClause(text(found[name] or ""))
        assert render_default(default, is_boolean=False) == "sa.text('CURRENT_TIMESTAMP')"


@pytest.mark.parametrize("name", ["level", "slope"])
async def test_nan_is_kept_or_refused_and_never_null(name: str, session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "sqlite":
        for statement in (
            insert(Reading).values({name: math.nan}),
            text(f"INSERT INTO reading ({name}) VALUES (:nan)").bindparams(nan=math.nan),
        ):
            with pytest.raises(StatementError) as caught:
                await session.execute(statement)
            assert classify(caught.value) is Failure.INVALID
    else:
        await store(session, **{name: math.nan})
        assert math.isnan(await session.scalar(select(getattr(Reading, name))) or 0)
    stored = await store(session, **{name: math.inf})
    assert stored is not None


async def test_a_document_that_is_nested_too_deeply_is_refused(session: AsyncSession) -> None:
    details: dict[str, Any] = {}
    for _ in range(100_000):
        details = {"a": details}
    with pytest.raises(InvalidValueError, match="details is nested too deeply"):
        Reading(details=details)
    with pytest.raises(StatementError) as caught:
        await session.execute(insert(Reading).values(details=details))
    assert classify(caught.value) is Failure.INVALID


@pytest.mark.parametrize(("name", "bits"), [("rank", 16), ("stock", 32), ("distance", 64)])
async def test_an_integer_is_stored_up_to_its_bounds(
    name: str, bits: int, session: AsyncSession
) -> None:
    column = Reading.metadata.tables["reading"].c[name]
    highest = 2 ** (bits - 1) - 1
    for number in (highest, -highest - 1, 0):
        await store(session, **{name: number})
        assert await session.scalar(select(column).where(column == number)) == number
        await session.rollback()
    for number in (highest + 1, -highest - 2):
        for statement in (
            insert(Reading).values({name: number}),
            update(Reading).values({name: number}),
            select(Reading.id).where(column == number),
            select(Reading.id).where(column.in_([1, number])),
        ):
            await check_refused(session, statement)


@pytest.mark.parametrize("name", ["name", "code", "notes"])
async def test_a_nul_is_refused_in_a_text(name: str, session: AsyncSession) -> None:
    column = Reading.metadata.tables["reading"].c[name]
    for statement in (
        insert(Reading).values({name: "a\x00"}),
        update(Reading).values({name: "\x00"}),
        select(Reading.id).where(column == "a\x00b"),
        select(Reading.id).where(column.startswith("\x00")),
    ):
        await check_refused(session, statement)
    await store(session, **{name: "\x01\x7f😀"})


@pytest.mark.parametrize("number", ["10000000000", "-1e10", "9999999999.995", "1e300"])
async def test_a_number_of_too_many_digits_is_refused(number: str, session: AsyncSession) -> None:
    column = Reading.metadata.tables["reading"].c.price
    for statement in (
        insert(Reading).values(price=Decimal(number)),
        update(Reading).values(price=Decimal(number)),
        select(Reading.id).where(column < Decimal(number)),
    ):
        await check_refused(session, statement)
    await store(session, price=Decimal("9999999999.99"))
    await store(session, price=Decimal("-9999999999.99"))
    await store(session, price=Decimal("9999999999.994"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("stock", value) for value in ("5", "five", 5.5, Decimal("5.5"), math.nan, b"5")],
        *[("rank", "5"), ("distance", "5")],
        *[(name, value) for name in ("name", "notes") for value in (5, 5.5, b"5", LONG_AGO)],
        ("level", "1.5"),
        ("price", "five"),
    ],
)
async def test_a_value_of_another_type_is_a_bug(
    name: str, value: Any, session: AsyncSession
) -> None:
    for statement in (insert(Reading).values({name: value}), update(Reading).values({name: value})):
        with pytest.raises(StatementError) as caught:
            await session.execute(statement)
        assert classify(caught.value) is None
        await session.rollback()


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [("stock", value, 5) for value in (5.0, Decimal(5), Decimal("5.00"))]
    + [("stock", True, 1), ("level", 2, 2.0), ("level", Decimal("1.5"), 1.5)]
    + [("price", value, Decimal("1.50")) for value in ("1.5", 1.5, Decimal("1.5"))],
)
async def test_a_number_of_another_type_is_stored_as_the_columns(
    name: str, value: Any, stored: Any, session: AsyncSession
) -> None:
    column = Reading.metadata.tables["reading"].c[name]
    await session.execute(insert(Reading).values({name: value}))
    found = await session.scalar(select(column))
    assert (found, type(found)) == (stored, type(stored))


@pytest.mark.parametrize(
    "condition",
    [
        *[Reading.stock == "5", Reading.stock.in_(["5"]), Reading.name != 5, Reading.code > 5.5],
        *[Reading.price <= "1.5", Reading.day == "2024-01-01", Reading.name == LONG_AGO],
        *[Reading.details["a"] == "b", Reading.details["a"] == 1],
    ],
)
async def test_a_value_of_another_type_is_not_compared(
    condition: Any, session: AsyncSession
) -> None:
    with pytest.raises((CompileError, DBAPIError)) as caught:
        await session.execute(select(Reading.id).where(condition))
    assert classify(caught.value) is None


@pytest.mark.parametrize(
    "condition",
    [
        *[Reading.stock == 5.0, Reading.price > 1, Reading.level > Decimal(1), Reading.id.in_([1])],
        *[Reading.name.in_(["a"]), Reading.day < LONG_AGO, Reading.ends > LONG_AGO],
        *[Reading.colour == "RED", Reading.shade == "dark", Reading.loose == "a"],
        *[Reading.details["a"].as_string() == "b", Reading.details["a"].as_integer() == 1],
        *[Reading.key == UUID(int=1), cast(Reading.stock, String) == "5", Reading.name == None],  # noqa: E711
    ],
)
async def test_a_value_is_compared(condition: Any, session: AsyncSession) -> None:
    await session.execute(select(Reading.id).where(condition))


async def test_a_part_of_a_document_is_what_is_in_it(session: AsyncSession) -> None:
    parts = {"yes": True, "no": False, "null": None, "one": 1, "text": "1", "list": [1, {"a": "b"}]}
    await store(session, details={**parts, "deep": parts})
    for name, value in parts.items():
        for part in (Reading.details[name], Reading.details["deep"][name]):
            found = await session.scalar(select(part))
            assert (found, type(found)) == (value, type(value))
    assert await session.scalar(select(Reading.details[("deep", "list", 1, "a")])) == "b"
    missing = Reading.details["missing"]
    assert await session.scalar(select(Reading.id).where(missing.is_(None))) == 1
    assert await session.scalar(select(Reading.id).where(Reading.details["one"].is_(None))) is None
    assert await session.scalar(select(Reading.id).where(Reading.details["yes"].as_boolean())) == 1


@pytest.mark.parametrize("name", ["key", "token", "badge"])
@pytest.mark.parametrize("digits", ["1", "12345678901234567890123456789012", "1e2", "abc"])
async def test_a_uuid_is_no_number(name: str, digits: str, session: AsyncSession) -> None:
    given, column = UUID(digits.zfill(32)), Reading.metadata.tables["reading"].c[name]
    await store(session, **{name: given})
    assert await session.scalar(select(column).where(column == given)) == given


async def test_a_text_that_is_too_long_is_refused_by_postgresql_alone(
    session: AsyncSession,
) -> None:
    statement = insert(Reading).values(code="abcdef")
    if session.get_bind().dialect.name == "sqlite":
        await session.execute(statement)
    else:
        await check_refused(session, statement)
    assert await session.scalar(select(func.count()).where(Reading.code == "abcdefg")) == 0


async def check_refused(session: AsyncSession, statement: Any) -> None:
    """Check that a statement fails by the fault of who sent its values."""
    with pytest.raises((StatementError, InvalidValueError)) as caught:
        await session.execute(statement)
    assert classify(caught.value) is Failure.INVALID
    await session.rollback()
