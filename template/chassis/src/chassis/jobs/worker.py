"""The worker: claims jobs, runs so many at once, renews their leases and reports their ends."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from random import shuffle, uniform
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.sessions import Sessions, session_scope
from ..db.transaction import run_transaction
from ..http.stopping import Stop
from ..settings import ChassisSettings
from .execution import Execution, Provider
from .queue import (
    Claim,
    Outcome,
    claim_jobs,
    has_work,
    reap_jobs,
    renew_leases,
    report_outcomes,
)
from .registry import JobRegistry

logger = logging.getLogger(__name__)

# What is left of the grace when running jobs are cancelled: to end, and to be given back.
RELEASE_SECONDS = 2.0
CANCEL_SECONDS = 1.0


def create_worker(app: FastAPI, registry: JobRegistry, state: Mapping[str, Any] | None) -> "Worker":
    """Return the worker of an application. Raise TypeError for a job that it can't call."""
    settings, sessions = app.state.settings, app.state.sessions
    provider = Provider(sessions, settings, [*(state or {}).values(), app])
    for job in registry:
        provider.check(job)
    if settings.jobs_in_server:
        for warning in _find_mistakes(settings, registry):
            logger.warning("%s", warning)
    return Worker(registry, provider, sessions, settings)


def _find_mistakes(settings: ChassisSettings, registry: JobRegistry) -> Iterator[str]:
    """Yield what is wrong with settings that are valid by themselves."""
    queues = registry.names_by_queue()
    for queue in sorted(settings.jobs_queue_limits.keys() - queues.keys()):
        yield f"APP_JOBS_QUEUE_LIMITS: no job has the queue {queue}; there are {', '.join(queues)}"
    concurrency = settings.jobs_concurrency
    connections = settings.database_pool_size + settings.database_max_overflow
    is_shared = settings.database_target.backend != "sqlite" and concurrency >= connections
    if is_shared and any({AsyncSession, Sessions} & {*job.provided.values()} for job in registry):
        yield (
            f"{concurrency} jobs at once and their worker share {connections} connections: a job "
            "that waits for one too long has failed; set APP_DATABASE_POOL_SIZE to "
            f"{concurrency + 1} or more, or APP_JOBS_CONCURRENCY lower"
        )


class Worker:
    """Runs jobs of some queues, by default of all that the registry's jobs have."""

    def __init__(
        self,
        registry: JobRegistry,
        provider: Provider,
        sessions: Sessions,
        settings: ChassisSettings,
    ) -> None:
        # Called with a job's name, the result of a run, and how many seconds it took.
        self.observe: Callable[[str, str, float], object] = lambda *run: None
        self._registry = registry
        self._provider = provider
        self._sessions = sessions
        self._concurrency = settings.jobs_concurrency
        self._limits = settings.jobs_queue_limits
        self._poll_seconds = settings.jobs_poll_seconds
        self._lease = timedelta(seconds=settings.jobs_lease_seconds)
        queues = registry.names_by_queue()
        self._queues = {name: queues[name] for name in registry.worked_queues or queues}
        self._running: dict[int, Execution] = {}
        self._outcomes: list[Outcome] = []
        self._woken = asyncio.Event()
        self._renew_at = 0.0

    async def run(self, stop: Stop) -> None:
        """Run jobs until the stop. What runs then has the rest of the grace, and is given back."""
        self._registry.wake = self._woken.set
        watch = asyncio.create_task(self._wake_at(stop))
        try:
            while not stop.is_set():
                await self._exchange(claims=True)
                # Leases are renewed in time, however seldom a worker looks for jobs.
                renewal = self._lease.total_seconds() / 6 if self._running else self._poll_seconds
                await self._pause(min(self._poll_seconds, renewal))
            while self._running and stop.seconds_left() > RELEASE_SECONDS:
                await self._exchange(claims=False)
                await self._pause(min(stop.seconds_left() - RELEASE_SECONDS, 1))
            await self._release()
        except asyncio.CancelledError:
            await self._release()
            raise
        finally:
            watch.cancel()

    async def run_due(self) -> list[Execution]:
        """Run what is due, and what that enqueues, until nothing is; for tests."""
        ended: list[Execution] = []
        while True:
            await self._exchange(claims=True)
            if not (running := list(self._running.values())):
                return ended
            await asyncio.wait([execution.task for execution in running])
            ended += running

    async def _wake_at(self, stop: Stop) -> None:
        await stop.wait()
        self._woken.set()

    async def _pause(self, seconds: float) -> None:
        """Wait until a job is enqueued here, or ends; else for some time, and not all at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0) * uniform(0.75, 1.25)):
                await self._woken.wait()
        self._woken.clear()

    async def _exchange(self, *, claims: bool) -> None:
        """Report, renew and claim, in one transaction; in none if there is nothing to do."""
        began = asyncio.get_running_loop().time()
        free = self._concurrency - len(self._running) if claims else 0
        renews = began >= self._renew_at
        has_to_write = self._outcomes or (renews and self._running)
        if not has_to_write and not (free and await self._may_claim()):
            return
        outcomes, self._outcomes = self._outcomes, []
        held = [each for each in self._running.values() if renews]

        async def exchange(session: AsyncSession) -> tuple[set[int], list[Claim]]:
            await report_outcomes(session, outcomes)
            kept = await renew_leases(session, [each.claim for each in held], self._lease)
            if renews:
                await reap_jobs(session)
            return kept, await self._claim(session, free)

        try:
            kept, claimed = await run_transaction(self._sessions.write, exchange)
        except BaseException:
            self._outcomes = outcomes + self._outcomes
            raise
        # By this clock a lease ends a little before it does by the database's.
        lease_end = began + self._lease.total_seconds() * 0.9
        if renews:
            self._renew_at = began + self._lease.total_seconds() / 3
        for execution in held:
            execution.extend(lease_end if execution.claim.id in kept else began)
        for claim in claimed:
            self._start(claim, lease_end)

    async def _may_claim(self) -> bool:
        """Return whether it is worth a transaction, which on SQLite would make requests wait."""
        if self._sessions.write.kw["bind"].dialect.name != "sqlite":
            return True
        async with session_scope(self._sessions.read) as session:
            return await has_work(session, self._queues)

    async def _claim(self, session: AsyncSession, free: int) -> list[Claim]:
        """Claim jobs of each queue, in another order each time, so that none has to wait for ever.

        Those of a limit come first, sorted: they are locked until the commit.
        """
        limited = sorted(self._queues.keys() & self._limits.keys())
        others = [queue for queue in self._queues if queue not in limited]
        shuffle(others)
        claims: list[Claim] = []
        for queue in limited + others if free else ():
            names, limit = self._queues[queue], self._limits.get(queue)
            left = free - len(claims)
            claims += await claim_jobs(session, queue, names, left, lease=self._lease, limit=limit)
        return claims

    def _start(self, claim: Claim, lease_end: float) -> None:
        execution = Execution(claim, self._registry[claim.name], self._provider, lease_end)
        task = asyncio.create_task(execution.run(), name=f"job {claim.id}")
        self._running[claim.id] = execution
        execution.task = task
        task.add_done_callback(partial(self._end, execution))

    def _end(self, execution: Execution, task: asyncio.Task[None]) -> None:
        del self._running[execution.claim.id]
        self.observe(execution.claim.name, execution.result, perf_counter() - execution.began)
        if execution.outcome is not None:
            self._outcomes.append(execution.outcome)
        self._woken.set()

    async def _release(self) -> None:
        """Cancel what runs and give it back. What does not end is left to the end of its lease."""
        tasks = [execution.task for execution in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            logger.warning("%d jobs are cancelled at the stop and given back", len(tasks))
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
            await asyncio.sleep(0)
        await self._exchange(claims=False)
