"""Tasks of the service's own: loops beside the requests, or in a command, until the stop.

A loop is an `async def work(stop: Stop)` that ends soon after `stop.is_set()`. One that fails is
logged and run again, after a pause that grows from one second to a minute.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from random import uniform
from time import monotonic

from fastapi import FastAPI

from .db.errors import describe_error, is_missing_table, is_transient
from .http.health import add_readiness_check
from .http.request import add_log_fields
from .http.stopping import ServerStop, Shutdown, Stop
from .settings import ChassisSettings

__all__ = ["ServerStop", "Stop", "run_until_stopped", "supervised"]

logger = logging.getLogger(__name__)

Work = Callable[[Stop], Awaitable[None]]

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# Fewer cost a few seconds, and a readiness that comes and goes costs requests.
FAILURES_UNTIL_UNREADY = 3
# What a task that is cancelled has for its `finally` blocks.
CANCEL_SECONDS = 2.0


@asynccontextmanager
async def supervised(app: FastAPI, name: str, work: Work) -> AsyncIterator[None]:
    """Run a loop beside the requests, between the start and the end of a lifespan.

    `/readyz` names it after three failures in a row. It is told of the stop by SIGTERM, and
    cancelled when the grace is over. Raise ValueError if a readiness check has the name.
    """
    settings: ChassisSettings = app.state.settings
    shutdown: Shutdown = app.state.shutdown
    supervisor = _Supervisor(name, work, shutdown.for_tasks)
    add_readiness_check(app, name, supervisor.check)
    shutdown.tasks.add(asyncio.create_task(supervisor.run(), name=name))
    try:
        yield
    finally:
        # Another server than `serve` tells nobody before.
        shutdown.begin(settings.server_graceful_timeout_seconds)
        await _cancel(await shutdown.wait_for_tasks())


async def run_until_stopped(settings: ChassisSettings, **loops: Work) -> None:
    """Run loops, by their names, until the command is stopped: by SIGTERM, or by Ctrl-C.

    Return if they end within `APP_SERVER_GRACEFUL_TIMEOUT_SECONDS`; the exit code is 0 then. Else,
    and at a second signal, they are cancelled, and so is the command.
    """
    if not loops:
        raise TypeError("run_until_stopped: name a loop: run_until_stopped(settings, sender=work)")
    shutdown = Shutdown()
    for name, work in loops.items():
        supervisor = _Supervisor(name, work, shutdown.for_tasks)
        shutdown.tasks.add(asyncio.create_task(supervisor.run(), name=name))
    try:
        await shutdown.for_tasks.wait()
    except asyncio.CancelledError:
        shutdown.begin(settings.server_graceful_timeout_seconds)
        if await _end(shutdown):
            raise
        # The stop was asked for by a cancellation, and has come to its end.
        if (task := asyncio.current_task()) is not None:
            task.uncancel()


async def _end(shutdown: Shutdown) -> bool:
    """Wait for the tasks, which were told. Return whether some had to be cancelled."""
    try:
        late = await shutdown.wait_for_tasks()
    except asyncio.CancelledError:
        late = {task for task in shutdown.tasks if not task.done()}
    await _cancel(late)
    return bool(late)


async def _cancel(late: set[asyncio.Task[None]]) -> None:
    for task in late:
        logger.error("the task %s has not ended at the stop and is cancelled", task.get_name())
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=CANCEL_SECONDS)


class _Supervisor:
    """Runs one loop, and runs it again when it fails."""

    def __init__(self, name: str, work: Work, stop: Stop) -> None:
        if not callable(work):
            raise TypeError(
                f"the task {name!r} must be a function of one argument, the stop, not {work!r}: "
                "pass the function without calling it"
            )
        self._name = name
        self._work = work
        self._stop = stop
        self._failures = 0
        self._pause = 0.0
        self._began = inf

    async def run(self) -> None:
        """Run the loop until the stop."""
        add_log_fields(task=self._name)
        while not self._stop.is_set():
            self._began = monotonic()
            failure = await self._find_failure()
            if self._is_steady():
                self._failures = 0
            self._began = inf
            if not self._stop.is_set():
                self._failures += 1
                doubled = FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 9)
                self._pause = min(doubled, LONGEST_PAUSE_SECONDS) * uniform(0.5, 1)
                self._log(failure, f"; it starts again in {self._pause:.1f} s")
                await self._stop.wait(self._pause)
            elif failure is not None:
                self._log(failure, " at the stop")

    async def check(self) -> str | None:
        """Return None for a loop that runs, else that it fails again and again."""
        if self._failures < FAILURES_UNTIL_UNREADY or self._is_steady():
            return None
        return f"it failed {self._failures} times in a row"

    def _is_steady(self) -> bool:
        """Return whether the loop has run for longer than the pause before it."""
        return monotonic() - self._began > self._pause

    async def _find_failure(self) -> BaseException | None:
        """Run the loop once. Return what it failed by, or None if it has returned."""
        try:
            await self._work(self._stop)
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return error
        except Exception as error:
            return error
        return None

    def _log(self, failure: BaseException | None, outlook: str) -> None:
        """Log a failure: in one line what time or a migration cures, with a traceback a bug."""
        if failure is None:
            logger.error("the task %s returned before the stop%s", self._name, outlook)
        elif is_missing_table(failure) or is_transient(failure):
            what = "the database's schema is not there: " if is_missing_table(failure) else ""
            reason = what + describe_error(failure)
            logger.warning("the task %s failed: %s%s", self._name, reason, outlook)
        else:
            logger.error("the task %s failed%s", self._name, outlook, exc_info=failure)
