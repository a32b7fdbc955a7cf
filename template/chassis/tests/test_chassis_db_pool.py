"""The pool: who waits longest is served first, and nothing is lost on the way."""

import asyncio
from typing import Any, cast

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn

from chassis.db.borrowed import may_use, replace_queue
from chassis.db.pool import FairQueue, Pool, choose_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine(tmp_path: Any) -> AsyncEngine:
    """An engine of one connection."""
    url = f"sqlite+aiosqlite:///{tmp_path}/app.db"
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}
    return create_async_engine(url, poolclass=choose_pool(), **options)


def pool_of(engine: AsyncEngine) -> Pool:
    pool = engine.pool
    assert isinstance(pool, Pool)
    return pool


async def until_waiting(engine: AsyncEngine, number: int) -> None:
    for _ in range(10):
        await asyncio.sleep(0)
    assert pool_of(engine).waiting == number


async def test_who_waits_longest_is_served_first(engine: AsyncEngine) -> None:
    served: list[int] = []

    async def use(number: int) -> None:
        async with engine.connect():
            served.append(number)

    async with asyncio.TaskGroup() as tasks, engine.connect():
        for number in range(3):
            tasks.create_task(use(number))
            await until_waiting(engine, number + 1)
    await engine.dispose()
    assert served == [0, 1, 2]


def make_queue() -> FairQueue:
    """Make the queue of a pool of one connection."""
    pool: Any = replace_queue(Pool, FairQueue)
    queue: FairQueue = pool._queue_class(1)
    return queue


def entry() -> ConnectionPoolEntry:
    return cast(ConnectionPoolEntry, object())


only_with_fair_queue = pytest.mark.skipif(
    not may_use("sqlalchemy"), reason="SQLAlchemy's own queue serves"
)


@only_with_fair_queue
async def test_a_newcomer_does_not_take_what_was_given_to_another() -> None:
    queue, connection = make_queue(), entry()
    waiter = asyncio.create_task(greenlet_spawn(queue.get, True, 5))
    await asyncio.sleep(0)
    queue.put(connection)
    with pytest.raises(queue.empty_error):
        queue.get(block=False)
    assert await waiter is connection


@only_with_fair_queue
async def test_a_connection_that_a_cancelled_wait_was_given_is_kept_where_none_more_fits() -> None:
    queue = make_queue()
    waiter = asyncio.create_task(greenlet_spawn(queue.get, True, 5))
    await asyncio.sleep(0)
    queue.put(entry())
    queue.put(entry())
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert queue.qsize() == 2


async def test_who_waits_too_long_is_told_so(engine: AsyncEngine) -> None:
    pool_of(engine)._timeout = 0.01
    async with engine.connect():
        with pytest.raises(PoolTimeoutError):
            await engine.connect()
    async with engine.connect():
        assert pool_of(engine).checkedout() == 1
    await engine.dispose()


@pytest.mark.parametrize("is_given_one", [True, False])
async def test_a_cancelled_wait_loses_no_connection(
    engine: AsyncEngine, is_given_one: bool
) -> None:
    async def use() -> None:
        async with engine.connect():
            pass

    async with engine.connect() as held:
        first, second = asyncio.create_task(use()), asyncio.create_task(use())
        await until_waiting(engine, 2)
        if is_given_one:
            await held.close()
        first.cancel()
    await asyncio.wait_for(second, 5)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert pool_of(engine).checkedout() == 0
    await engine.dispose()
