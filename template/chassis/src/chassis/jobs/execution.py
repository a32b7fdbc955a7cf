"""One run of a job: what it is called with, how long it may take, and what became of it."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from copy import copy
from dataclasses import is_dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import uniform
from time import perf_counter
from traceback import walk_tb
from types import FrameType
from typing import Any

from pydantic import BaseModel
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ..db.errors import DatabaseUnavailableError, describe_error, is_transient
from ..db.session_guards import WriteSession
from ..db.sessions import SessionFactory, Sessions, session_scope
from ..http.request import add_log_fields, request_context
from ..settings import ChassisSettings
from .job import AnyJob, JobRun, NonRetryableError, RetryableError
from .model import JobState
from .queue import Claim, LeaseLostError, Outcome, finish_in_transaction, lock_claim

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 10.0
LAST_RETRY_SECONDS = 3600.0
# Of a session: the claim that must be held when it commits.
_CLAIM = "chassis_job_claim"
_ERROR_LENGTH = 500
_DECLARED = (RetryableError, NonRetryableError)


class Provider:
    """The values of parameters by their types: sessions, settings, what the lifespan yielded."""

    def __init__(
        self, sessions: Sessions, settings: ChassisSettings, others: Sequence[object] = ()
    ) -> None:
        self._sessions = sessions
        self._values = [settings, *others]

    def check(self, job: AnyJob) -> None:
        """Raise TypeError for a parameter that has no value here, or two."""
        for name, kind in job.provided.items():
            if kind in (Sessions, AsyncSession, JobRun):
                continue
            found = sum(isinstance(value, kind) for value in self._values)
            if found != 1:
                raise TypeError(
                    f"the job {job.name}: {name}: the lifespan yields {found or 'no'} values of "
                    f"{kind.__name__}, and the job needs one: yield {{…: {kind.__name__}(…)}}"
                )
        documents: set[type] = {type(each) for each in self._values if isinstance(each, BaseModel)}
        documents |= {type(each) for each in self._values if is_dataclass(each)}
        for name, field in job.arguments_model.model_fields.items():
            if field.annotation in documents:
                raise TypeError(
                    f"the job {job.name}: {name}: JSON can hold {field.annotation}, so that it is "
                    "an argument of enqueue; for the lifespan's write Annotated[…, Depends(…)]"
                )

    async def find_values(self, job: AnyJob, claim: Claim, stack: AsyncExitStack) -> dict[str, Any]:
        """Return the values of a run. Its sessions commit only while the claim is held."""
        values: dict[str, Any] = {}
        if AsyncSession in job.provided.values():
            # The only one: `DbSession` and `DbReadSession` are the same, as in a route.
            write = self._guard_sessions(claim).write
            session = await stack.enter_async_context(session_scope(write))
        for name, kind in job.provided.items():
            if kind is Sessions:
                values[name] = self._guard_sessions(claim)
            elif kind is JobRun:
                values[name] = JobRun(claim.id, claim.attempts, claim.attempts > job.retries)
            elif kind is AsyncSession:
                values[name] = session
            else:
                values[name] = next(each for each in self._values if isinstance(each, kind))
        return values

    def _guard_sessions(self, claim: Claim) -> Sessions:
        factory: SessionFactory = copy(self._sessions.write)
        factory.kw = factory.kw | {"info": {**(factory.kw.get("info") or {}), _CLAIM: claim}}
        return replace(self._sessions, write=factory)


@event.listens_for(WriteSession, "before_commit")
def _check_claim(session: Session) -> None:
    """Raise LeaseLostError where a job commits that somebody else may be doing by now."""
    claim: Claim | None = session.info.get(_CLAIM)
    if claim is None or session.in_nested_transaction():
        return
    if session.scalar(lock_claim(claim)) is None:
        raise LeaseLostError


class Execution:
    """A run of a job, in a task of its own."""

    task: asyncio.Task[None]

    def __init__(self, claim: Claim, job: AnyJob, provider: Provider, lease_end: float) -> None:
        self.claim = claim
        self.outcome: Outcome | None = None
        # done, retried, dead or given_back: what the metrics call it.
        self.result = "lost"
        self.error: BaseException | None = None
        self.began = perf_counter()
        self._job = job
        self._provider = provider
        self._lease = asyncio.timeout_at(lease_end)
        self._limit = asyncio.timeout(job.timeout_seconds)
        self._is_committing = False

    def extend(self, lease_end: float | None) -> None:
        """Go on until then; without a lease the run is cancelled at once."""
        if self._limit.expired():
            about = (self.claim.id, self.claim.name, self._job.timeout_seconds)
            logger.error("job %d, %s: it caught CancelledError, and goes on after %g s", *about)
        # Unless it has ended, or is about to: what it has committed is its end.
        with suppress(RuntimeError):
            if not self._is_committing:
                self._lease.reschedule(lease_end)

    async def run(self) -> None:
        """Run the job and keep what became of it: at the worker's next exchange it is reported."""
        job, claim = self._job, self.claim
        add_log_fields(job=claim.name, job_id=claim.id, attempt=claim.attempts)
        with request_context(claim.context):
            if claim.attempts > job.retries + 1:
                self._fail(None, "its worker died")
                return
            try:
                async with self._lease, self._limit:
                    await self._call()
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is None or not task.cancelling():
                    self._fail(error, self._describe(error))
                else:
                    self.outcome = Outcome(claim, JobState.WAITING, counts=False)
                    self.result = "given_back"
            except (LeaseLostError, TimeoutError) as error:
                if self._lease.expired() or isinstance(error, LeaseLostError):
                    logger.warning("the job lost its lease, or was cancelled; it is not done")
                elif self._limit.expired():
                    self._fail(error, f"it took longer than {job.timeout_seconds:g} s")
                else:
                    self._fail(error, self._describe(error))
            except (Exception, SystemExit) as error:
                self._fail(error, self._describe(error))
            else:
                self.result = "done"
                logger.info("done in %.0f ms", (perf_counter() - self.began) * 1000)

    async def _call(self) -> None:
        """Call the function. What its session has written is committed with the end of the job."""
        async with AsyncExitStack() as stack:
            values = await self._provider.find_values(self._job, self.claim, stack)
            arguments = self._job.load_arguments(self.claim.arguments)
            await self._job.function(**arguments, **values)
            sessions = [each for each in values.values() if isinstance(each, AsyncSession)]
            if sessions:
                await self._commit(sessions[0])
            else:
                self.outcome = Outcome(self.claim, JobState.DONE)

    async def _commit(self, session: AsyncSession) -> None:
        await session.flush()
        await finish_in_transaction(session, self.claim)
        session.info.pop(_CLAIM)
        # Its row is locked: nobody else has it, however long the commit takes.
        self.extend(None)
        self._is_committing = True
        await session.commit()

    def _fail(self, error: BaseException | None, reason: str) -> None:
        """Let the job wait for its next run, or if this was the last one, be dead."""
        claim, self.error = self.claim, error
        if claim.attempts <= self._job.retries and not isinstance(error, NonRetryableError):
            doubled = FIRST_RETRY_SECONDS * 2 ** min(claim.attempts - 1, 20)
            pause = min(doubled, LAST_RETRY_SECONDS) * uniform(0.5, 1)
            self.outcome = Outcome(claim, JobState.WAITING, reason, timedelta(seconds=pause))
            self.result = "retried"
            level, outlook = logging.WARNING, f"it runs again in {pause:.0f} s"
        else:
            self.outcome = Outcome(claim, JobState.DEAD, reason)
            self.result = "dead"
            level, outlook = logging.ERROR, "it is dead"
        is_bug = error is not None and not isinstance(error, _DECLARED) and not is_transient(error)
        logger.log(level, "failed: %s; %s", reason, outlook, exc_info=error if is_bug else None)

    def _describe(self, error: BaseException) -> str:
        """Return what an error is and where the service raised it; its message may hold values.

        Of those that jobs raise for it, return the text.
        """
        kind = type(error).__name__
        if isinstance(error, _DECLARED):
            # What PostgreSQL has no text for would keep the worker from reporting anything.
            text = str(error).replace("\0", "").encode("utf-8", "replace").decode("utf-8")
            return f"{kind}: {text}".removesuffix(": ")[:_ERROR_LENGTH]
        if isinstance(error, SQLAlchemyError | DatabaseUnavailableError):
            return describe_error(error)[:_ERROR_LENGTH]
        package = self._job.function.__module__.partition(".")[0]
        frames = list(walk_tb(error.__traceback__))
        own = [each for each in frames if _top_package(each[0]) == package]
        frame, line = (own or frames)[-1]
        return f"{kind} at {Path(frame.f_code.co_filename).name}:{line}"[:_ERROR_LENGTH]


def _top_package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]
