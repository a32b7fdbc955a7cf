"""run_transaction: a transaction that the database gave up is tried again, and nothing else is."""

import asyncio

import pytest
from chassis_stock import Item, create_tables
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from chassis import ChassisSettings
from chassis.db import create_session_factory, run_transaction, session_scope
from chassis.db.errors import Failure, classify

SessionFactory = async_sessionmaker[AsyncSession]


@pytest.fixture
def factory(settings: ChassisSettings, engine: AsyncEngine) -> SessionFactory:
    create_tables(settings)
    return create_session_factory(settings, engine)


@pytest.fixture
async def numbers(factory: SessionFactory) -> list[int]:
    """Give the numbers of two items."""
    async with session_scope(factory) as session:
        items = [Item(name="bolt"), Item(name="nut")]
        session.add_all(items)
        await session.commit()
        return [item.id for item in items]


async def quantities(factory: SessionFactory) -> list[int]:
    async with session_scope(factory) as session:
        return list(await session.scalars(select(Item.quantity).order_by(Item.id)))


async def test_it_commits_and_gives_the_result(factory: SessionFactory) -> None:
    async def add(session: AsyncSession) -> str:
        session.add(Item(name="bolt"))
        return "added"

    assert await run_transaction(factory, add) == "added"
    assert await quantities(factory) == [0]


@pytest.mark.usefixtures("numbers")
async def test_20_tasks_that_read_then_write_lose_nothing(factory: SessionFactory) -> None:
    async def increment(session: AsyncSession) -> None:
        item = (await session.scalars(select(Item).where(Item.name == "bolt"))).one()
        await asyncio.sleep(0)
        item.quantity += 1

    tasks = [run_transaction(factory, increment, attempts=50, serializable=True) for _ in range(20)]
    await asyncio.gather(*tasks)

    assert await quantities(factory) == [20, 0]


async def test_a_deadlock_is_resolved(
    factory: SessionFactory, numbers: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    async def increment_both(session: AsyncSession, order: list[int]) -> None:
        if session.get_bind().dialect.name == "postgresql":
            await session.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
        for number in order:
            adjust = update(Item).where(Item.id == number).values(quantity=Item.quantity + 1)
            await session.execute(adjust)
            await asyncio.sleep(0.05)

    await asyncio.gather(
        run_transaction(factory, lambda session: increment_both(session, numbers)),
        run_transaction(factory, lambda session: increment_both(session, numbers[::-1])),
    )

    assert await quantities(factory) == [2, 2]
    async with session_scope(factory) as session:
        repeats = int(session.get_bind().dialect.name == "postgresql")
    assert caplog.text.count("is run again after try 1 of 5: deadlock detected") == repeats


@pytest.mark.usefixtures("numbers")
async def test_it_gives_up_in_the_end(factory: SessionFactory) -> None:
    only_on_postgres(factory)
    tried = 0

    async def come_too_late(session: AsyncSession) -> None:
        nonlocal tried
        tried += 1
        await session.execute(select(Item.quantity))
        async with session_scope(factory) as other:
            await other.execute(update(Item).values(quantity=tried))
            await other.commit()
        await session.execute(update(Item).values(quantity=100))

    with pytest.raises(DBAPIError) as caught:
        await run_transaction(factory, come_too_late, attempts=3, serializable=True)

    assert classify(caught.value) is Failure.UNAVAILABLE
    assert tried == 3
    assert await quantities(factory) == [3, 3]


def only_on_postgres(factory: SessionFactory) -> None:
    if factory.kw["bind"].dialect.name != "postgresql":
        pytest.skip("SQLite's writers wait for each other")


@pytest.mark.usefixtures("numbers")
async def test_what_would_fail_again_is_not_tried_again(factory: SessionFactory) -> None:
    tried = 0

    async def add_it_again(session: AsyncSession) -> None:
        nonlocal tried
        tried += 1
        await session.execute(update(Item).where(Item.name == "nut").values(quantity=7))
        session.add(Item(name="bolt"))

    with pytest.raises(IntegrityError):
        await run_transaction(factory, add_it_again)

    assert tried == 1
    assert await quantities(factory) == [0, 0]
    async with session_scope(factory) as session:
        assert await session.scalar(select(func.count(Item.id))) == 2
