"""The time that requests may take: one timer for all that have not reached the shortest limit."""

import asyncio
from contextvars import Context
from math import inf
from time import perf_counter

from .limits import RouteLimits
from .request import RequestRecord

Task = asyncio.Task[object]


class Deadlines:
    """Cancels requests that take too long. `asyncio.timeout` costs each 4 to 5 µs more."""

    def __init__(self, limits: RouteLimits) -> None:
        self._limits = limits
        # In the order of their starts.
        self._running: dict[RequestRecord, Task] = {}
        # Those that passed the shortest limit; their routes have another one.
        self._longer: dict[RequestRecord, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, request: RequestRecord) -> None:
        """Cancel the current task, which serves a request, if it takes too long."""
        task = asyncio.current_task()
        assert task is not None
        self._running[request] = task
        if self._timer is None or self._loop is not task.get_loop():
            self._loop = task.get_loop()
            shortest = self._limits.smallest.timeout_seconds
            # A context of its own, or the timer would keep this request.
            self._timer = self._loop.call_later(shortest, self._check_running, context=Context())

    def remove(self, request: RequestRecord) -> None:
        """Let a request take as long as it needs from here on."""
        if self._running.pop(request, None) is None and self._longer:
            timer = self._longer.pop(request, None)
            if timer is not None:
                timer.cancel()

    def _check_running(self) -> None:
        self._timer = None
        shortest = self._limits.smallest.timeout_seconds
        for request, task in list(self._running.items()):
            left = request.started + shortest - perf_counter()
            if left > 0:
                self._timer = task.get_loop().call_later(left, self._check_running)
                return
            self.remove(request)
            self._check_own_limit(request, task)

    def _check_own_limit(self, request: RequestRecord, task: Task) -> None:
        limit = self._limits.find(request.scope).timeout_seconds
        left = request.started + limit - perf_counter()
        if left <= 0:
            self._cancel_request(request, task)
        elif left < inf:
            timer = task.get_loop().call_later(left, self._cancel_request, request, task)
            self._longer[request] = timer

    def _cancel_request(self, request: RequestRecord, task: Task) -> None:
        self.remove(request)
        request.is_late = True
        task.cancel()
