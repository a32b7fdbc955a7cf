"""What models are made of: alike on both databases, for the session and for statements of Core."""

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from itertools import pairwise
from typing import Any
from unicodedata import normalize
from uuid import RFC_4122, UUID

import pytest
from chassis_forks import FORKS
from chassis_stock import create_tables, executing
from sqlalchemy import (
    ForeignKey,
    MetaData,
    String,
    bindparam,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from chassis import ChassisSettings
from chassis.db import NAMING_CONVENTION, Base, Sessions, open_sessions, session_scope
from chassis.db.errors import InvalidValueError
from chassis.db.models import (
    BigKey,
    CaselessString,
    Timestamps,
    UUIDKey,
    Versioned,
    fold_case,
    string_enum,
    uuid7,
)

SECOND = timedelta(seconds=1)


class Apart(Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class State(StrEnum):
    DRAFT = "draft"
    SENT = "sent off"


class Order(Timestamps, Versioned, Apart):
    # A reserved word, so that the version's expression has to quote it.
    __tablename__ = "order"

    id: Mapped[BigKey]
    note: Mapped[str] = mapped_column(String(50), default="")
    state: Mapped[State] = mapped_column(string_enum(State), default=State.DRAFT)


class Account(Apart, Versioned, Timestamps):
    """The parents in the other order, and mapper arguments of its own."""

    __tablename__ = "account"

    id: Mapped[UUIDKey]
    kind: Mapped[str] = mapped_column(String(9))
    email: Mapped[str | None] = mapped_column(CaselessString(20), unique=True)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "account"}  # noqa: RUF012


class Firm(Account):
    """In a table of its own, and its version in its parent's."""

    __tablename__ = "firm"

    id: Mapped[UUID] = mapped_column(ForeignKey("account.id"), primary_key=True)
    city: Mapped[str] = mapped_column(String(9))
    __mapper_args__ = {"polymorphic_identity": "firm"}  # noqa: RUF012


class Person(Account):
    """In its parent's table."""

    __mapper_args__ = {"polymorphic_identity": "person"}  # noqa: RUF012


ORDER = Order.metadata.tables["order"]


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings, Apart.metadata)
    return settings


async def count_statements(session: AsyncSession, work: Any) -> list[str]:
    """Return the statements that some work sends."""
    engine = session.get_bind()
    sent: list[str] = []

    def note(*arguments: Any) -> None:
        sent.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    await work
    event.remove(engine, "before_cursor_execute", note)
    return sent


# Timestamps


async def test_moments_are_there_after_one_statement(session: AsyncSession) -> None:
    order = Order()
    session.add(order)
    assert len(await count_statements(session, session.flush())) == 1
    assert order.created_at == order.updated_at
    assert order.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - order.created_at) < 60 * SECOND
    await session.commit()

    before = order.updated_at
    order.note = "changed"
    assert len(await count_statements(session, session.flush())) == 1
    assert order.created_at <= before <= order.updated_at


WAYS: dict[str, Any] = {
    "a bulk update": update(Order).where(Order.id < 9).values(note="x"),
    "Core": update(ORDER).values(note="x"),
    "Core, many": update(ORDER).where(ORDER.c.id == bindparam("key")).values(note=bindparam("new")),
    "by a join": update(Order).where(Order.note < Account.kind).values(note="x"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_update_moves_the_moment_and_the_version(
    session: AsyncSession, way: str
) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    await session.execute(insert(Order), [{"updated_at": long_ago, "created_at": long_ago}])
    session.add(Firm(city="Graz"))
    await session.commit()

    rows = [{"key": 1, "new": "x"}, {"key": 2, "new": "x"}] if way == "Core, many" else None
    await session.execute(WAYS[way], rows)
    await session.commit()

    order = await session.get_one(Order, 1, populate_existing=True)
    assert (order.note, order.version, order.created_at) == ("x", 2, long_ago)
    assert abs(datetime.now(UTC) - order.updated_at) < 60 * SECOND


async def test_an_update_of_many_objects_by_their_keys_checks_their_versions(
    session: AsyncSession,
) -> None:
    session.add_all([Order(), Order()])
    await session.commit()
    rows = [{"id": 1, "note": "x", "version": 1}, {"id": 2, "note": "y", "version": 1}]
    await session.execute(update(Order), rows)
    await session.commit()
    found = (await session.execute(select(ORDER.c.note, ORDER.c.version))).all()
    assert [tuple(row) for row in found] == [("x", 2), ("y", 2)]
    with pytest.raises(StaleDataError):
        await session.execute(update(Order), rows[:1])


async def test_sql_text_has_the_defaults(session: AsyncSession) -> None:
    await session.execute(text("INSERT INTO \"order\" (note, state) VALUES ('', 'draft')"))
    [order] = await session.scalars(select(Order))
    assert order.version == 1
    assert abs(datetime.now(UTC) - order.created_at) < 60 * SECOND


def test_moments_and_version_stand_behind_the_models_columns() -> None:
    assert [*ORDER.c.keys()][:3] == ["id", "note", "state"]


# Versioned


@pytest.mark.parametrize(
    ("model", "field"), [(Order, "note"), (Firm, "city"), (Person, "email")], ids=str
)
async def test_a_row_that_changed_meanwhile_is_not_changed(
    session: AsyncSession, settings: ChassisSettings, model: type[Any], field: str
) -> None:
    row = model(**{field: "a"})
    session.add(row)
    await session.commit()
    assert row.version == 1
    with executing(settings) as connection:
        for table in ("order", "account"):
            connection.execute(text(f'UPDATE "{table}" SET version = 7'))
    setattr(row, field, "b")
    with pytest.raises(StaleDataError):
        await session.flush()


async def test_a_row_that_was_deleted_meanwhile_is_not_deleted(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    order = Order()
    session.add(order)
    await session.commit()
    with executing(settings) as connection:
        connection.execute(text('UPDATE "order" SET version = 7'))
    await session.delete(order)
    with pytest.raises(StaleDataError):
        await session.flush()


async def test_a_version_that_a_bulk_update_raised_is_known(session: AsyncSession) -> None:
    order = Order()
    session.add(order)
    await session.commit()
    await session.execute(update(Order).values(note="x"))
    order.note = "y"
    await session.commit()
    assert order.version == 3


def test_a_version_of_its_own_stays() -> None:
    class Alone(Base):
        __abstract__ = True
        metadata = MetaData()

    class Stamped(Versioned, Alone):
        __tablename__ = "stamped"
        id: Mapped[BigKey]
        stamp: Mapped[int] = mapped_column()
        __mapper_args__ = {"version_id_col": stamp}  # noqa: RUF012

    assert Stamped.__mapper__.version_id_col is Stamped.__table__.c.stamp


# Keys


def check_rising(keys: list[UUID]) -> None:
    assert all(one < other for one, other in pairwise(keys))
    # As text and as PostgreSQL and SQLite store them, too.
    assert all(one.hex < other.hex for one, other in pairwise(keys))


def test_a_uuid_is_of_version_7_and_begins_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    key = uuid7()
    assert key.variant == RFC_4122
    assert key.version == 7
    assert before <= key.int >> 80 <= time.time_ns() // 1_000_000


def test_uuids_rise_within_a_process() -> None:
    check_rising([uuid7() for _ in range(100_000)])


def test_uuids_rise_while_the_clock_stands_still_or_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [uuid7()]
    for moment in (time.time_ns(), 10**18, 0):
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment)
        keys += [uuid7() for _ in range(1000)]
    check_rising(keys)


def test_uuids_of_threads_are_different_and_rise_in_each() -> None:
    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(lambda _: [uuid7() for _ in range(5000)], range(8)))
    for run in runs:
        check_rising(run)
    assert len({key for run in runs for key in run}) == 40_000


def make_keys(count: int) -> list[tuple[int, UUID, int]]:
    return [(time.time_ns(), uuid7(), time.time_ns()) for _ in range(count)]


def test_uuids_rise_across_four_processes() -> None:
    with FORKS.Pool(4) as pool:
        runs = pool.map(make_keys, [5000] * 4, chunksize=1)
    keys = [made for run in runs for made in run]
    assert len({key for _, key, _ in keys}) == 20_000
    # One that was begun when the other was made, 1 ms before at the least, is above it.
    ended = sorted((after, key) for _, key, after in keys)
    highest, place = UUID(int=0), 0
    for before, key, _ in sorted(keys):
        while place < len(ended) and ended[place][0] + 1_000_000 < before:
            highest = max(highest, ended[place][1])
            place += 1
        assert key > highest


async def test_keys_are_made_on_both(session: AsyncSession) -> None:
    session.add_all([Account(kind="account") for _ in range(3)])
    await session.execute(insert(Account.metadata.tables["account"]), {"kind": "account"})
    await session.commit()
    keys = list(await session.scalars(select(Account.id).order_by(Account.id)))
    check_rising(keys)
    assert len(keys) == 4

    await session.execute(insert(Order), [{"id": 2**40}])
    await session.execute(insert(Order), [{"id": 5}])
    assert await session.get(Order, 2**40)


async def test_a_dataclass_gets_a_key(session: AsyncSession, settings: ChassisSettings) -> None:
    class Alone(Base):
        __abstract__ = True
        metadata = MetaData()

    class Note(MappedAsDataclass, Alone):
        __tablename__ = "note"
        id: Mapped[UUIDKey] = mapped_column(init=False)
        name: Mapped[str]

    create_tables(settings, Note.metadata)
    note = Note(name="a")
    session.add(note)
    await session.commit()
    assert note.id.version == 7


async def test_a_big_key_counts(session: AsyncSession) -> None:
    session.add_all([Order(), Order()])
    await session.flush()
    await session.execute(insert(ORDER), {"note": "3"})
    assert list(await session.scalars(select(Order.id).order_by(Order.id))) == [1, 2, 3]


# Enums


async def test_an_enum_stores_its_values(session: AsyncSession) -> None:
    session.add(Order(state=State.SENT))
    await session.commit()
    assert await session.scalar(text('SELECT state FROM "order"')) == "sent off"
    session.expunge_all()
    [order] = await session.scalars(select(Order).where(Order.state == State.SENT))
    assert order.state is State.SENT
    assert await session.scalar(select(Order.id).where(Order.state.like("sent%"))) == 1


async def test_no_other_value_is_stored(session: AsyncSession) -> None:
    with pytest.raises(IntegrityError):
        await session.execute(insert(Order).values(state="lost"))
    await session.rollback()
    with pytest.raises(IntegrityError):
        await session.execute(text("INSERT INTO \"order\" (note, state) VALUES ('', 'DRAFT')"))


def test_an_enum_of_numbers_is_refused() -> None:
    class Size(Enum):
        SMALL = 1

    with pytest.raises(ArgumentError, match=r"string_enum\(Size\): the value of Size.SMALL"):
        string_enum(Size)


# Text in either case


SAME = [
    ("ada@example.com", "ADA@Example.COM"),
    ("straße", "STRASSE"),
    ("straße", "STRA\N{LATIN CAPITAL LETTER SHARP S}E"),
    ("ÉMILE", normalize("NFD", "émile")),
    ("ΌΣΟΣ", "όσος"),
    ("\N{KELVIN SIGN}", "k"),
    ("İ", normalize("NFD", "İ").lower()),
    # An accent and a letter below, in either order.
    ("\u03b1\u0345\u0301", "\u03b1\u0301\u0345"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_text_is_unique_in_either_case(one: str, other: str, session: AsyncSession) -> None:
    session.add(Account(kind="account", email=one))
    await session.commit()
    assert await session.scalar(select(Account.kind).where(Account.email == other))
    assert await session.scalar(select(Account.kind).where(Account.email.in_([other])))
    assert await session.scalar(
        select(Account.kind).where(Account.email.startswith(fold_case(other)[:1]))
    )
    with pytest.raises(IntegrityError):
        await session.execute(insert(Account).values(kind="account", email=other))


async def test_letters_that_differ_stay_different(session: AsyncSession) -> None:
    texts = ["i", "İ", "\N{LATIN SMALL LETTER DOTLESS I}", "e", "é", "ss ", "ß", "ﬀa", "㏕"]
    session.add_all([Account(kind="account", email=one) for one in texts])
    await session.commit()


async def test_an_object_reads_as_its_row(session: AsyncSession) -> None:
    account = Person(email="ÉMILE@Example.com")
    assert account.email == "émile@example.com"
    session.add(account)
    await session.commit()
    assert await session.scalar(text("SELECT email FROM account")) == account.email


async def test_a_text_that_folding_makes_too_long_is_refused(session: AsyncSession) -> None:
    session.add(Person(email="ß" * 11))
    with pytest.raises((InvalidValueError, StatementError)) as caught:
        await session.flush()
    assert not isinstance(caught.value, DBAPIError)


def test_what_is_folded_stays_as_it_is() -> None:
    for code in range(sys.maxunicode + 1):
        folded = fold_case(chr(code))
        assert folded == fold_case(folded) == fold_case(normalize("NFD", chr(code))), hex(code)


# All together


async def test_of_changes_at_once_one_wins(settings: ChassisSettings) -> None:
    async with open_sessions(settings) as sessions:
        async with session_scope(sessions.write) as session:
            session.add(Order())
            await session.commit()
        results = await asyncio.gather(*(change(sessions) for _ in range(20)))
        async with session_scope(sessions.read) as session:
            order = await session.get_one(Order, 1)
    assert order.version == 1 + results.count(True)


async def change(sessions: Sessions) -> bool:
    async with session_scope(sessions.write) as session:
        order = await session.get_one(Order, 1)
        order.note += "x"
        try:
            await session.commit()
        except StaleDataError:
            return False
        return True
