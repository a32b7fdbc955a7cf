"""The connection pool of every engine."""

import asyncio
from collections import deque
from typing import Any, ClassVar

from sqlalchemy.exc import TimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection

from .borrowed import may_use, replace_queue


class Pool(AsyncAdaptedQueuePool):
    """A pool that knows how many wait for a connection, be it a free one or a new one."""

    waiting = 0

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out. Raises SQLAlchemy's TimeoutError, with the pool's state."""
        self.waiting += 1
        try:
            return super().connect()
        except TimeoutError:
            size = self.size() + max(0, self.overflow())
            raise TimeoutError(
                f"no connection free in {self.timeout():g} s: {self.checkedout()} of {size} in use"
            ) from None
        finally:
            self.waiting -= 1


class FairQueue:
    """Free connections, the last one first, and the tasks that wait for one, the first one first.

    With `asyncio.Queue` a newcomer can take what was meant for a task that waits already, and each
    wait costs a timeout's context besides its timer.
    """

    # What SQLAlchemy's pool catches, and how its greenlet waits.
    empty_error: ClassVar[type[Exception]]
    full_error: ClassVar[type[Exception]]
    wait_for: Any

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._free: deque[ConnectionPoolEntry] = deque()
        self._waiting: deque[asyncio.Future[ConnectionPoolEntry | None]] = deque()

    def qsize(self) -> int:
        """Return the number of free connections."""
        return len(self._free)

    def put(
        self, item: ConnectionPoolEntry, block: bool = True, timeout: float | None = None
    ) -> None:
        """Hand a connection to the task that waits longest, or keep it. Raise `full_error`."""
        if self._hand_over(item):
            return
        if len(self._free) >= self.maxsize:
            raise self.full_error
        self._free.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        """Return a connection, after `timeout` seconds at most. Raise `empty_error`."""
        if self._free:
            return self._free.pop()
        if not block:
            raise self.empty_error
        assert timeout is not None
        item: ConnectionPoolEntry = self.wait_for(self._wait(timeout))
        return item

    def _hand_over(self, item: ConnectionPoolEntry) -> bool:
        """Hand a connection to the task that waits longest; return whether any waits."""
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(item)
                return True
        return False

    async def _wait(self, seconds: float) -> ConnectionPoolEntry:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiting.append(waiter)
        timer = loop.call_later(seconds, _give_up, waiter)
        try:
            item: ConnectionPoolEntry | None = await waiter
        except asyncio.CancelledError:
            # It may have been given one at the same moment, which nobody else would close.
            given = None if waiter.cancelled() else waiter.result()
            if given is not None and not self._hand_over(given):
                self._free.append(given)
            raise
        finally:
            timer.cancel()
        if item is None:
            raise self.empty_error
        return item


def choose_pool() -> type[Pool]:
    """Return the pool that serves tasks in turn, where the release of SQLAlchemy is a known one."""
    return replace_queue(Pool, FairQueue) if may_use("sqlalchemy") else Pool


def _give_up(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)
