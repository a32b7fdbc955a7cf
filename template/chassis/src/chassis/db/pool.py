"""The connection pool of every engine."""

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry


class Pool(AsyncAdaptedQueuePool):
    """A pool that knows how many wait for a connection, be it a free one or a new one."""

    waiting = 0

    def _do_get(self) -> ConnectionPoolEntry:
        self.waiting += 1
        try:
            return super()._do_get()
        finally:
            self.waiting -= 1
