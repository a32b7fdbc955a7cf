"""The stop of the service: how tasks and streams learn of it, and how long they have."""

import asyncio
import logging
import os
from contextlib import suppress
from contextvars import ContextVar
from math import inf
from time import monotonic
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

logger = logging.getLogger(__name__)

# What a task that is cancelled at the very end has.
LAST_SECONDS = 1.0
# For the end of a lifespan. One that hangs would hold the process until it is killed.
LIFESPAN_END_SECONDS = 10.0


class Stop:
    """What a loop or a stream asks whether to end; `is_set` and `wait` are those of an Event."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._deadline = inf

    def is_set(self) -> bool:
        """Return whether it is time to end."""
        return self._event.is_set()

    def set(self) -> None:
        """Tell whoever asks or waits to end; a test of a loop calls this."""
        self._event.set()

    def set_within(self, seconds: float) -> None:
        """Tell them that so many seconds are left, or less if less is left already."""
        self._deadline = min(self._deadline, monotonic() + seconds)
        self.set()

    def seconds_left(self) -> float:
        """Return how long what has not ended may go on until it is cancelled; infinity, if ever."""
        return self._deadline - monotonic()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for the stop, so many seconds at most. Return whether it is time to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        return self.is_set()


class Shutdown:
    """One stop of a process: tasks are told when it begins, requests when its drain is over."""

    def __init__(self) -> None:
        self.for_tasks = Stop()
        self.for_requests = Stop()
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self, seconds: float) -> None:
        """Tell the tasks, which have so many seconds to end, or less if less is left."""
        self.for_tasks.set_within(seconds)

    async def wait_for_tasks(self) -> set[asyncio.Task[None]]:
        """Wait until the tasks have ended or their time is over. Return those that go on."""
        if not self.tasks:
            return set()
        left = self.for_tasks.seconds_left()
        return (await asyncio.wait(self.tasks, timeout=max(left, 0)))[1]


# Set by a server of the chassis's own; the lifespan makes one of its own for other servers.
server_shutdown: ContextVar[Shutdown | None] = ContextVar("chassis_shutdown", default=None)


async def get_server_stop(connection: HTTPConnection) -> Stop:
    """Return what tells a stream that the server waits for it to end."""
    shutdown: Shutdown = connection.scope["chassis"].app.state.shutdown
    return shutdown.for_requests


ServerStop = Annotated[Stop, Depends(get_server_stop)]


async def end_all_tasks() -> None:
    """Cancel what is left in a process that ends, and end it without those that do not mind.

    A task that catches CancelledError and goes on would hold it until it is killed.
    """
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left and (stubborn := (await asyncio.wait(left, timeout=LAST_SECONDS))[1]):
        names = ", ".join(sorted(task.get_name() for task in stubborn))
        logger.error("the process ends without %s: caught CancelledError, and went on", names)
        logging.shutdown()
        os._exit(1)
