"""What models of any style store: the same moment, the same NULL and the same keys on both."""

import math
import warnings
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any

import pytest
from chassis_stock import only_on
from sqlalchemy import (
    JSON,
    TIMESTAMP,
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Time,
    bindparam,
    insert,
    inspect,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from chassis.db import Base, DatabaseSettings
from chassis.db.base import UTCDateTime
from chassis.db.errors import Failure, InvalidValueError, TimeZoneError, classify
from chassis.db.migrations.connect import open_connection

KARACHI = timezone(timedelta(hours=5))
TEN = datetime(2024, 2, 29, 10, 0, tzinfo=KARACHI)
DOCUMENT = JSON().with_variant(postgresql.JSONB(), "postgresql")
SQLITE_DATETIME = sqlite.DATETIME(timezone=True)  # type: ignore[no-untyped-call]


class Sample(Base):
    """Keeps these tables apart from those of other tests."""

    __abstract__ = True
    metadata = MetaData()


class Event(Sample):
    """Written as most public models are: with SQLAlchemy's own types."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    zoned: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    stamp: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    precise: Mapped[datetime | None] = mapped_column(postgresql.TIMESTAMP(timezone=True))
    native: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True).with_variant(SQLITE_DATETIME, "sqlite")
    )
    ours: Mapped[datetime | None]
    plain: Mapped[datetime | None] = mapped_column(DateTime)
    clock: Mapped[time | None] = mapped_column(Time)
    zoned_clock: Mapped[time | None] = mapped_column(Time(timezone=True))
    meta: Mapped[dict[str, Any] | None]
    json: Mapped[Any | None] = mapped_column(JSON)
    jsonb: Mapped[Any | None] = mapped_column(DOCUMENT)


class Entry(Sample):
    """Keys of other widths, one of them in two tables."""

    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    event_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("event.id"))


EVENTS = Event.metadata.tables["event"]
ENTRIES = Entry.metadata.tables["entry"]
ZONED = ("zoned", "stamp", "precise", "native", "ours")
DOCUMENTS = ("meta", "json", "jsonb")


@pytest.fixture
def settings(settings: DatabaseSettings) -> DatabaseSettings:
    """Give settings on a database with the tables."""
    with open_connection(settings) as connection:
        Sample.metadata.create_all(connection)
        connection.commit()
    return settings


@pytest.mark.parametrize("name", ZONED)
async def test_a_zoned_column_keeps_the_moment(name: str, session: AsyncSession) -> None:
    session.add(Event(**{name: TEN}))
    await session.commit()
    await session.execute(insert(EVENTS).values({name: TEN}))
    await session.execute(insert(EVENTS), [{name: TEN}, {name: TEN.astimezone(UTC)}])
    await session.execute(insert(Event), [{name: TEN}, {name: None}])
    await session.execute(update(EVENTS).where(EVENTS.c.id == 1).values({name: TEN}))
    await session.commit()

    found = (await session.scalars(select(EVENTS.c[name]).order_by(EVENTS.c.id))).all()
    assert found == [*[TEN] * 5, None]
    assert {moment.utcoffset() for moment in found if moment} == {timedelta()}
    same = select(EVENTS.c.id).where(EVENTS.c[name] == TEN.astimezone(UTC))
    assert len((await session.scalars(same)).all()) == 5


@pytest.mark.parametrize("name", ZONED)
async def test_a_zoned_column_refuses_a_guess(name: str, session: AsyncSession) -> None:
    naive = datetime(2024, 2, 29, 10)
    for statement in (
        insert(EVENTS).values({name: naive}),
        insert(EVENTS).values({name: naive.date()}),
        select(EVENTS.c.id).where(EVENTS.c[name] == naive),
    ):
        with pytest.raises(StatementError, match="a naive datetime") as raised:
            await session.execute(statement)
        assert isinstance(raised.value.orig, TimeZoneError)


@pytest.mark.parametrize(
    ("name", "value"),
    [("plain", TEN), ("clock", time(10, tzinfo=KARACHI)), ("zoned_clock", time(10))],
)
async def test_no_time_zone_is_lost_or_guessed(
    name: str, value: Any, session: AsyncSession
) -> None:
    with pytest.raises(StatementError) as raised:
        await session.execute(insert(EVENTS).values({name: value}))
    assert isinstance(raised.value.orig, TimeZoneError)


async def test_a_time_with_a_zone_is_kept_or_refused(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    clock = time(10, tzinfo=KARACHI)
    statement = insert(EVENTS).values(zoned_clock=clock)
    if settings.database_target.backend == "postgres":
        await session.execute(statement)
        assert await session.scalar(select(EVENTS.c.zoned_clock)) == clock
    else:
        with pytest.raises(StatementError, match="would lose the time zone"):
            await session.execute(statement)
    await session.rollback()


async def test_naive_columns_keep_naive_datetimes(session: AsyncSession) -> None:
    naive = datetime(2024, 2, 29, 10)
    await session.execute(insert(EVENTS).values(plain=naive, clock=naive.time()))

    row = (await session.execute(select(EVENTS.c.plain, EVENTS.c.clock))).one()
    assert row == (naive, naive.time())
    await session.rollback()


async def test_the_ends_of_time_are_invalid_values(session: AsyncSession) -> None:
    for moment in (
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5))),
        datetime(1, 1, 1, tzinfo=KARACHI),
    ):
        for name in ZONED:
            with pytest.raises(StatementError) as raised:
                await session.execute(insert(EVENTS).values({name: moment}))
            await session.rollback()
            assert classify(raised.value) is Failure.INVALID


async def test_migrations_store_what_the_service_reads(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    with open_connection(settings) as connection:
        connection.execute(insert(EVENTS), [{"zoned": TEN, "ours": TEN, "json": None}])
        connection.commit()
        assert connection.scalar(select(EVENTS.c.zoned)) == TEN
        with pytest.raises(StatementError, match="naive"):
            connection.execute(insert(EVENTS).values(zoned=datetime(2024, 2, 29)))

    event = (await session.scalars(select(Event))).one()
    assert (event.zoned, event.ours, event.json) == (TEN, TEN, None)
    assert await session.scalar(select(Event.id).where(Event.json.is_(None))) == event.id


async def test_what_older_releases_wrote_reads_the_same(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    only_on("sqlite", settings)
    await session.execute(
        text("INSERT INTO event (zoned, ours) VALUES (:old, :old)"),
        {"old": "2024-02-29 05:00:00.000000"},
    )

    row = (await session.execute(select(EVENTS.c.zoned, EVENTS.c.ours))).one()
    assert row == (TEN, TEN)
    await session.rollback()


async def test_a_textual_statement_stores_the_same_moment(session: AsyncSession) -> None:
    written = text("INSERT INTO event (zoned, ours) VALUES (:moment, :moment)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await session.execute(written, {"moment": TEN})

    found = text("SELECT count(*) FROM event WHERE zoned = :moment")
    assert await session.scalar(found, {"moment": TEN.astimezone(UTC)}) == 1
    row = (await session.execute(select(EVENTS.c.zoned, EVENTS.c.ours))).one()
    assert row == (TEN, TEN)
    await session.rollback()


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_no_document_is_null(name: str, session: AsyncSession) -> None:
    column = EVENTS.c[name]
    session.add(Event(**{name: None}))
    await session.flush()
    await session.execute(insert(EVENTS).values({name: None}))
    await session.execute(insert(EVENTS), [{name: None}, {name: {"a": 1}}])
    await session.execute(insert(EVENTS).values({name: null()}))
    await session.execute(update(EVENTS).where(column.is_not(None)).values({name: None}))
    await session.execute(insert(Event), [{name: None}])
    await session.execute(insert(EVENTS).values({name: bindparam("given")}), {"given": None})

    absent = (await session.scalars(select(EVENTS.c.id).where(column.is_(None)))).all()
    assert len(absent) == 7
    event = await session.get_one(Event, absent[0])
    setattr(event, name, {"a": 1})
    await session.flush()
    setattr(event, name, None)
    await session.flush()
    assert len((await session.scalars(select(EVENTS.c.id).where(column.is_(None)))).all()) == 7
    await session.rollback()


async def test_jsons_null_is_there_for_who_asks(session: AsyncSession) -> None:
    session.add(Event(json=JSON.NULL))
    await session.flush()

    assert await session.scalar(select(EVENTS.c.id).where(EVENTS.c.json.is_(None))) is None
    assert await session.scalar(text("SELECT CAST(json AS text) FROM event")) == "null"
    await session.rollback()


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": "\ud800"}], ids=ascii)
@pytest.mark.parametrize("name", DOCUMENTS)
async def test_json_that_only_python_reads_is_refused(
    name: str, value: Any, session: AsyncSession
) -> None:
    with pytest.raises(StatementError) as raised:
        await session.execute(insert(EVENTS).values({name: value}))
    assert isinstance(raised.value.orig, InvalidValueError)


async def test_text_of_every_script_stays_json(session: AsyncSession) -> None:
    document = {"ä": ["€", "😀", "\\ud800", None, 1.5]}
    await session.execute(insert(EVENTS).values(dict.fromkeys(DOCUMENTS, document)))

    row = (await session.execute(select(*(EVENTS.c[name] for name in DOCUMENTS)))).one()
    assert row == (document,) * 3
    await session.rollback()


async def test_integer_keys_count_by_themselves(session: AsyncSession) -> None:
    events = [Event(), Event()]
    session.add_all(events)
    await session.flush()
    await session.execute(insert(EVENTS), [{"plain": None}])
    third = await session.scalar(insert(EVENTS).values(plain=None).returning(EVENTS.c.id))
    session.add(Entry(event_id=third))
    await session.flush()

    assert [event.id for event in events] == [1, 2]
    assert third == 4
    assert await session.scalar(select(Entry.id)) == 1
    await session.rollback()


async def test_a_big_key_holds_64_bits(session: AsyncSession) -> None:
    session.add(Event(id=2**63 - 1))
    await session.flush()
    session.add(Entry(event_id=2**63 - 1))
    await session.flush()

    assert await session.scalar(select(Entry.event_id)) == 2**63 - 1
    await session.rollback()


def test_keys_count_by_themselves_in_migrations(settings: DatabaseSettings) -> None:
    table = Table(
        "ledger", MetaData(), Column("id", BigInteger, primary_key=True), Column("n", Integer)
    )
    with open_connection(settings) as connection:
        table.create(connection)
        connection.execute(insert(table), [{"n": 1}, {"n": 2}])
        assert connection.scalars(select(table.c.id).order_by("id")).all() == [1, 2]
        (key,) = [one for one in inspect(connection).get_columns("ledger") if one["name"] == "id"]
        expected = BigInteger if connection.dialect.name == "postgresql" else Integer
        assert isinstance(key["type"], expected)


def test_the_bases_datetime_is_zoned_on_any_engine() -> None:
    assert isinstance(EVENTS.c.ours.type, UTCDateTime)


@pytest.mark.parametrize("value", ["2024-02-29", 5])
@pytest.mark.parametrize("column", ["zoned", "based"])
async def test_what_is_no_datetime_is_a_bug_and_no_invalid_value(
    column: str, value: object, session: AsyncSession
) -> None:
    table = Table(
        "moment",
        MetaData(),
        Column(column, UTCDateTime() if column == "based" else DateTime(timezone=True)),
    )
    await (await session.connection()).run_sync(table.create)

    with pytest.raises(StatementError) as error:
        await session.execute(insert(table).values({column: value}))

    assert classify(error.value) is None
