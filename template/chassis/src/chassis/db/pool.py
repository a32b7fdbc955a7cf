"""The connection pool of every engine."""

import asyncio
from collections import deque
from typing import Any

from sqlalchemy.exc import TimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon


class Queue(QueueCommon[ConnectionPoolEntry]):
    """Free connections, the last one first, and the tasks that wait for one, the first one first.

    With `asyncio.Queue` a newcomer can take what was meant for a task that waits already, and each
    wait costs a timeout's context besides its timer.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._free: deque[ConnectionPoolEntry] = deque()
        self._waiting: deque[asyncio.Future[ConnectionPoolEntry | None]] = deque()

    def empty(self) -> bool:
        """Return whether no connection is free."""
        return not self._free

    def full(self) -> bool:
        """Return whether one more free connection would be refused."""
        return len(self._free) >= self.maxsize

    def qsize(self) -> int:
        """Count the free connections."""
        return len(self._free)

    def put(
        self, item: ConnectionPoolEntry, block: bool = True, timeout: float | None = None
    ) -> None:
        """Hand a connection to the task that waits longest, or keep it. Raises Full."""
        self.put_nowait(item)

    def put_nowait(self, item: ConnectionPoolEntry) -> None:
        """Hand a connection to the task that waits longest, or keep it. Raises Full."""
        if self._hand_over(item):
            return
        if self.full():
            raise Full
        self._free.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        """Take a connection, in `timeout` seconds where one must be waited for. Raises Empty."""
        if self._free or not block:
            return self.get_nowait()
        assert timeout is not None
        return await_only(self._wait(timeout))

    def get_nowait(self) -> ConnectionPoolEntry:
        """Take a free connection. Raises Empty."""
        if not self._free:
            raise Empty
        return self._free.pop()

    def _hand_over(self, item: ConnectionPoolEntry) -> bool:
        """Hand a connection to the task that waits longest, if any waits."""
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
            raise Empty
        return item


def _give_up(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Pool(AsyncAdaptedQueuePool):
    """A pool that knows how many wait for a connection, be it a free one or a new one."""

    _queue_class = Queue
    waiting = 0

    def _do_get(self) -> ConnectionPoolEntry:
        self.waiting += 1
        try:
            return super()._do_get()
        except TimeoutError:
            size = self.size() + max(0, self.overflow())
            raise TimeoutError(
                f"no connection free in {self.timeout():g} s: {self.checkedout()} of {size} in use"
            ) from None
        finally:
            self.waiting -= 1
