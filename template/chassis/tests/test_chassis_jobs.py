"""Jobs: written down in a transaction, done after it, once, and given up with a reason."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import chassis_postbox
import pytest
from chassis_forks import Fork
from chassis_processes import environment_of_sample
from chassis_stock import (
    Item,
    changed,
    create_stock,
    create_tables,
    engines,
    executing,
    only_on,
    started,
)
from fastapi import APIRouter, Depends, FastAPI, Request
from sqlalchemy import event, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import DropTable

from chassis import ChassisSettings, create_app, request_id
from chassis.db import DbSession, DbSessions, Sessions, open_sessions, session_scope
from chassis.jobs import (
    Job,
    JobRecord,
    JobRun,
    JobState,
    NonRetryableError,
    RetryableError,
    job,
)
from chassis.jobs.queue import QueueError
from chassis.testing.environment import write_variables

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 30


class Courier:
    """What a lifespan makes for jobs and handlers."""

    def __init__(self) -> None:
        self.sent: list[Any] = []


def get_courier(request: Request) -> Courier:
    courier: Courier = request.state.courier
    return courier


CurrentCourier = Annotated[Courier, Depends(get_courier)]


@job
async def send(
    item_id: int, run: JobRun, courier: CurrentCourier, on: date = date(2026, 1, 1)
) -> None:
    courier.sent.append((item_id, run, on, request_id()))


@job(queue="slow", retries=1)
async def fail(secret: str, settings: ChassisSettings) -> None:
    raise LookupError(secret)


@job
async def rename(item_id: int, session: DbSession) -> None:
    await session.execute(update(Item).where(Item.id == item_id).values(name="renamed"))


@dataclass
class Mailbox:
    """What JSON could hold, too."""

    name: str


@job
async def post(mailbox: Mailbox) -> None:
    """Take what the lifespan yields, so it seems."""


@job(timeout_seconds=0.05, retries=0)
async def linger() -> None:
    await asyncio.sleep(60)


router = APIRouter()


@router.post("/items")
async def add_item(session: DbSession, commit: bool = True) -> int:
    item = Item(name=None)
    session.add(item)
    await session.flush()
    await send.enqueue(session, item_id=item.id)
    if commit:
        await session.commit()
    else:
        await session.rollback()
    return item.id


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    create_tables(settings)
    return changed(settings, jobs_poll_seconds=0.05)


def service(
    settings: ChassisSettings,
    courier: Courier | Mailbox,
    jobs: Sequence[Job[...]] = (send, fail, rename),
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"courier": courier}

    return create_app(
        settings, package="sample", routers=[router], lifespan=lifespan, jobs=list(jobs)
    )


async def find_rows(sessions: Sessions) -> list[JobRecord]:
    async with session_scope(sessions.read) as session:
        return list(await session.scalars(select(JobRecord).order_by(JobRecord.id)))


async def until_state(sessions: Sessions, *states: JobState) -> list[JobRecord]:
    """Wait until the jobs are in these states, in the order of their ids."""
    return await until(sessions, lambda rows: [row.state for row in rows] == list(states))


async def until(sessions: Sessions, is_met: Callable[[list[JobRecord]], bool]) -> list[JobRecord]:
    """Wait until the rows are as they should be."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_met(rows := await find_rows(sessions)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return rows


async def enqueue(sessions: Sessions, job: Job[...], **arguments: Any) -> int:
    async with session_scope(sessions.write) as session:
        job_id = await job.enqueue(session, **arguments)
        await session.commit()
    return job_id


async def test_a_job_of_a_request_runs_after_its_commit_with_its_id_and_what_the_lifespan_yields(
    settings: ChassisSettings,
) -> None:
    courier = Courier()
    app = service(settings, courier)
    async with started(app) as client:
        await client.post("/items", params={"commit": False})
        item = (await client.post("/items", headers={"X-Request-ID": "abc"})).json()
        (row,) = await until_state(app.state.sessions, JobState.DONE)
    assert courier.sent == [(item, JobRun(row.id, 1), date(2026, 1, 1), "abc")]
    assert (row.name, row.queue, row.attempts, row.error) == ("send", "default", 1, None)
    assert row.created_at <= (row.started_at or row.created_at) <= datetime.now(UTC)
    assert row.finished_at is not None
    assert row.lease_until is None


async def test_a_job_that_fails_waits_longer_each_time_and_is_dead_at_last_without_its_values(
    settings: ChassisSettings,
) -> None:
    app = service(settings, Courier())
    async with started(app):
        sessions: Sessions = app.state.sessions
        await enqueue(sessions, fail, secret="pa55")
        (row,) = await until(sessions, lambda rows: rows[0].error is not None)
        assert (row.state, row.attempts) == (JobState.WAITING, 1)
        assert timedelta(seconds=3) < row.run_at - datetime.now(UTC) <= timedelta(seconds=10)
        await make_due(sessions)
        (row,) = await until_state(sessions, JobState.DEAD)
    assert row.attempts == 2
    assert row.error is not None
    assert row.error.startswith("LookupError at test_chassis_jobs.py:")


@job(retries=1)
async def deliver(error: str, run: JobRun, sessions: DbSessions) -> None:
    if run.is_last:
        async with session_scope(sessions.write) as session:
            session.add(Item(name="given up"))
            await session.commit()
    kinds = {"retry": RetryableError, "give up": NonRetryableError, "bug": ValueError}
    # Text that a database may have no bytes for; that of a bug is in the log alone.
    raise kinds[error](error if error == "bug" else f"{error}\0\ud800")


@job(retries=0)
async def parse(text: str) -> None:
    json.loads(text)


async def test_an_errors_place_is_in_the_services_own_code(settings: ChassisSettings) -> None:
    app = service(settings, Courier(), [parse])
    async with started(app):
        await enqueue(app.state.sessions, parse, text="pa55")
        (row,) = await until_state(app.state.sessions, JobState.DEAD)
    line = parse.function.__code__.co_firstlineno + 2
    assert row.error == f"JSONDecodeError at test_chassis_jobs.py:{line}"


async def make_due(sessions: Sessions) -> None:
    async with session_scope(sessions.write) as session:
        await session.execute(update(JobRecord).values(run_at=datetime.now(UTC)))
        await session.commit()


async def test_a_job_that_can_not_be_done_is_dead_at_once(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    app = service(settings, Courier(), [deliver])
    async with started(app):
        await enqueue(app.state.sessions, deliver, error="give up")
        (row,) = await until_state(app.state.sessions, JobState.DEAD)
    assert (row.attempts, row.error) == (1, "NonRetryableError: give up?")
    [line] = [each for each in caplog.records if each.name == "chassis.jobs.execution"]
    assert (line.levelname, line.exc_info) == ("ERROR", None)
    assert line.getMessage() == "failed: NonRetryableError: give up?; it is dead"


@pytest.mark.parametrize("error", ["retry", "bug"])
async def test_what_a_job_is_expected_to_raise_has_no_traceback_and_its_last_run_knows(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    app = service(settings, Courier(), [deliver])
    async with started(app):
        sessions: Sessions = app.state.sessions
        await enqueue(sessions, deliver, error=error)
        await until(sessions, lambda rows: rows[0].error is not None)
        async with session_scope(sessions.read) as session:
            assert list(await session.scalars(select(Item.name))) == []
        await make_due(sessions)
        (row,) = await until_state(sessions, JobState.DEAD)
        async with session_scope(sessions.read) as session:
            assert list(await session.scalars(select(Item.name))) == ["given up"]
    assert row.attempts == 2
    assert (row.error == "RetryableError: retry?") == (error == "retry")
    failures = [each for each in caplog.records if each.name == "chassis.jobs.execution"]
    assert [each.levelname for each in failures] == ["WARNING", "ERROR"]
    assert [bool(each.exc_info) for each in failures] == [error == "bug"] * 2


async def test_a_job_is_cancelled_by_its_key_or_id_and_retried_in_a_transaction(
    settings: ChassisSettings,
) -> None:
    app = service(changed(settings, jobs_in_server=False), Courier())
    async with started(app):
        sessions: Sessions = app.state.sessions
        first = await enqueue(sessions, send, item_id=1, key="a")
        second = await enqueue(sessions, send, item_id=2)
        await enqueue(sessions, fail, secret="", key="a")

        async def change(change: Callable[..., Any], *which: Any, **key: Any) -> bool:
            async with session_scope(sessions.write) as session:
                changed: bool = await change(session, *which, **key)
                await session.commit()
            return changed

        assert await change(send.cancel, key="a")
        assert not await change(send.cancel, key="a")
        assert not await change(fail.cancel, second)
        assert await change(send.cancel, second)
        cancelled, waiting = JobState.CANCELLED, JobState.WAITING
        assert [row.state for row in await find_rows(sessions)] == [cancelled, cancelled, waiting]
        assert not await change(fail.retry, first)
        assert not await change(send.retry, 4)
        assert await change(send.retry, first)
        assert [row.state for row in await find_rows(sessions)] == [waiting, cancelled, waiting]
        async with session_scope(sessions.write) as session:
            await send.retry(session, second)
            await session.rollback()
        assert [row.state for row in await find_rows(sessions)] == [waiting, cancelled, waiting]
        for wrong in (partial(send.cancel), partial(send.cancel, job_id=1, key="a")):
            with pytest.raises(
                TypeError, match=r"send\.cancel takes either the id of a job or key="
            ):
                await wrong(session)


async def test_a_job_that_is_retried_runs_at_once_by_the_databases_clock(
    settings: ChassisSettings,
) -> None:
    courier = Courier()
    app = service(changed(settings, jobs_poll_seconds=60), courier)
    async with started(app):
        sessions: Sessions = app.state.sessions
        # Until the worker has looked for jobs.
        await enqueue(sessions, rename, item_id=1)
        await until_state(sessions, JobState.DONE)
        job_id = await enqueue(sessions, send, item_id=1, delay=timedelta(hours=1))
        statements: list[str] = []
        write, _ = (engine.sync_engine for engine in engines(app))
        event.listen(write, "before_cursor_execute", lambda *given: statements.append(given[2]))
        async with session_scope(sessions.write) as session:
            await send.retry(session, job_id)
            await session.commit()
        await until_state(sessions, JobState.DONE, JobState.DONE)
        [retried] = [each for each in statements if "run_at=" in each and "started_at" not in each]
        assert ("statement_timestamp" in retried) == (write.dialect.name == "postgresql")


async def test_what_a_job_writes_is_committed_with_its_end(settings: ChassisSettings) -> None:
    app = service(settings, Courier())
    async with started(app) as client:
        await client.post("/items")
        item = (await client.post("/items")).json()
        await enqueue(app.state.sessions, rename, item_id=item)
        await until_state(app.state.sessions, *[JobState.DONE] * 3)
        async with session_scope(app.state.sessions.read) as session:
            assert await session.scalar(select(Item.name).where(Item.id == item)) == "renamed"


async def test_a_job_that_takes_too_long_is_cancelled(settings: ChassisSettings) -> None:
    app = service(settings, Courier(), [linger])
    async with started(app):
        await enqueue(app.state.sessions, linger)
        (row,) = await until_state(app.state.sessions, JobState.DEAD)
    assert row.error == "it took longer than 0.05 s"


async def test_a_key_is_of_one_job_until_that_has_begun(settings: ChassisSettings) -> None:
    settings = changed(settings, jobs_in_server=False)
    app = service(settings, Courier())
    async with started(app):
        sessions: Sessions = app.state.sessions
        first = await enqueue(sessions, send, item_id=1, key="a")
        assert await enqueue(sessions, send, item_id=2, key="a") == first
        assert await enqueue(sessions, send, item_id=3, key="b") != first
        async with session_scope(sessions.write) as session:
            begun = update(JobRecord).where(JobRecord.id == first)
            await session.execute(begun.values(state=JobState.RUNNING, fence=1))
            await session.commit()
        later = await enqueue(sessions, send, item_id=4, key="a")
        assert later != first
        # Its next try does not stand in the other one's way.
        async with session_scope(sessions.write) as session:
            begun = update(JobRecord).where(JobRecord.id == first)
            await session.execute(begun.values(state=JobState.WAITING))
            await session.commit()
        assert len(await find_rows(sessions)) == 3


async def steal(sessions: Sessions) -> None:
    """Claim all again, as another worker does with jobs that outlived their leases."""
    async with session_scope(sessions.write) as session:
        await session.execute(update(JobRecord).values(fence=JobRecord.fence + 1))
        await session.commit()


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_job_that_lost_its_lease_commits_nothing(
    settings: ChassisSettings, is_lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @job
    async def by_session(session: AsyncSession) -> None:
        if is_lost:
            # A task of its own: on SQLite one may have one session that writes.
            await asyncio.create_task(steal(app.state.sessions))
        session.add(Item(name="by session"))

    @job
    async def by_sessions(sessions: DbSessions) -> None:
        if is_lost:
            await steal(app.state.sessions)
        async with session_scope(sessions.write) as session:
            session.add(Item(name="by sessions"))
            await session.commit()

    app = create_stock(settings, jobs=(by_session, by_sessions))
    async with started(app):
        sessions: Sessions = app.state.sessions
        for each in (by_session, by_sessions):
            await enqueue(sessions, each)
            await until(sessions, lambda rows: bool(rows[-1].started_at) and is_ended(rows[-1]))
        async with session_scope(sessions.read) as session:
            items = list(await session.scalars(select(Item.name).order_by(Item.id)))
        states = [row.state for row in await find_rows(sessions)]
    assert items == ([] if is_lost else ["by session", "by sessions"])
    assert states == [JobState.RUNNING if is_lost else JobState.DONE] * 2
    assert caplog.text.count("the job lost its lease") == (2 if is_lost else 0)


def is_ended(row: JobRecord) -> bool:
    """Return whether a job is done, or another's."""
    return row.state == JobState.DONE or row.fence > 1


async def test_a_job_whose_lease_is_not_renewed_is_cancelled_before_another_worker_has_it(
    settings: ChassisSettings,
) -> None:
    events: list[str] = []

    @job
    async def stay() -> None:
        events.append("begun")
        try:
            await asyncio.sleep(60 if len(events) == 1 else 0)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    settings = changed(settings, jobs_lease_seconds=1)
    app = create_stock(settings, jobs=(stay,))
    async with started(app):
        sessions: Sessions = app.state.sessions
        await enqueue(sessions, stay)
        await until(sessions, lambda rows: rows[0].state == JobState.RUNNING)
        # As after the worker was stopped for so long: what it renews is not its own.
        await steal(sessions)
        (row,) = await until_state(sessions, JobState.DONE)
    assert events == ["begun", "cancelled", "begun"]
    assert (row.fence, row.attempts) == (3, 2)


@pytest.mark.parametrize("poll_seconds", [0.05, 60])
async def test_a_lease_is_renewed_for_as_long_as_the_job_runs(
    settings: ChassisSettings, poll_seconds: float
) -> None:
    @job
    async def stay() -> None:
        await asyncio.sleep(7)

    # With no room for another job, too; so long that a busy machine does not lose it.
    once = {"jobs_lease_seconds": 3, "jobs_concurrency": 1, "jobs_poll_seconds": poll_seconds}
    app = create_stock(changed(settings, **once), jobs=(stay,))
    async with started(app):
        await enqueue(app.state.sessions, stay)
        (row,) = await until_state(app.state.sessions, JobState.DONE)
    assert (row.fence, row.attempts) == (1, 1)


async def test_settings_that_do_not_suit_the_jobs_are_warned_of(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"slow": 1, "mial": 2}
    mistaken = changed(settings, jobs_queue_limits=limits, jobs_concurrency=50)
    async with started(create_stock(mistaken, jobs=(fail,))):
        pass
    text = "APP_JOBS_QUEUE_LIMITS: no job has the queue mial; there are slow"
    assert [each for each in caplog.messages if "APP_JOBS" in each or "APP_DATABASE" in each] == [
        text
    ]
    caplog.clear()
    async with started(create_stock(mistaken, jobs=(fail, rename))):
        pass
    is_postgres = settings.database_target.backend == "postgres"
    assert ("50 jobs at once and their worker share" in caplog.text) == is_postgres
    assert ("set APP_DATABASE_POOL_SIZE to 51 or more" in caplog.text) == is_postgres


async def test_a_queue_has_a_limit_and_the_smaller_priority_comes_first(
    settings: ChassisSettings,
) -> None:
    running: list[str] = []
    most = 0
    order: list[str] = []

    async def note(name: str) -> None:
        nonlocal most
        running.append(name)
        most = max(most, len(running))
        order.append(name)
        await asyncio.sleep(0.02)
        running.remove(name)

    @job(queue="mail", priority=5)
    async def later(name: str) -> None:
        await note(name)

    @job(queue="mail")
    async def sooner(name: str) -> None:
        await note(name)

    settings = changed(settings, jobs_queue_limits={"mail": 1}, jobs_poll_seconds=0.02)
    app = create_stock(settings, jobs=(later, sooner))
    async with open_sessions(settings) as sessions:
        for number in range(4):
            await enqueue(sessions, later, name=f"later {number}")
        await enqueue(sessions, sooner, name="sooner")
        async with started(app), started(create_stock(settings, jobs=(later, sooner))):
            await until_state(sessions, *[JobState.DONE] * 5)
    assert most == 1
    assert order == ["sooner", *(f"later {number}" for number in range(4))]


async def test_a_worker_leaves_jobs_alone_that_it_does_not_know(settings: ChassisSettings) -> None:
    @job
    async def newer() -> None:
        """Be of the next release."""

    async with open_sessions(settings) as sessions:
        await enqueue(sessions, newer)
    app = service(settings, courier := Courier())
    async with started(app):
        await enqueue(app.state.sessions, send, item_id=1)
        rows = await until_state(app.state.sessions, JobState.WAITING, JobState.DONE)
    assert rows[0].fence == 0
    assert len(courier.sent) == 1


async def test_a_worker_without_work_writes_nothing_on_sqlite(settings: ChassisSettings) -> None:
    only_on("sqlite", settings)
    app = service(changed(settings, jobs_poll_seconds=0.01, jobs_lease_seconds=1), Courier())
    async with started(app):
        await enqueue(app.state.sessions, send, item_id=1)
        await until_state(app.state.sessions, JobState.DONE)
        statements: list[str] = []
        write, read = (engine.sync_engine for engine in engines(app))
        event.listen(write, "begin", lambda *_: statements.append("begin"))
        event.listen(read, "before_cursor_execute", lambda *given: statements.append(given[2]))
        await asyncio.sleep(2)
    assert "begin" not in statements
    assert len(statements) > 20


async def test_what_can_not_be_enqueued_is_an_error_that_says_what_to_do(
    settings: ChassisSettings,
) -> None:
    app = service(settings, Courier(), [send])
    async with started(app):
        tries: list[tuple[Callable[..., Any], type[Exception], str]] = [
            (linger.enqueue, LookupError, r"linger is not registered.*create_app\(…, jobs=\(…, li"),
            (partial(send.enqueue, item_id="pa55"), TypeError, "send.enqueue: item_id: .* integer"),
            (partial(send.enqueue, item=1), TypeError, "item_id: Field required; item: Extra"),
        ]
        for wrong, error, message in tries:
            async with session_scope(app.state.sessions.write) as session:
                with pytest.raises(error, match=message) as raised:
                    await wrong(session)
                assert "pa55" not in str(raised.value)
    async with started(bare := create_stock(settings)):
        with pytest.raises(LookupError, match="send is not registered"):
            await enqueue(bare.state.sessions, send, item_id=1)
    with executing(settings) as connection:
        connection.execute(DropTable(JobRecord.metadata.tables["jobs"]))
    async with open_sessions(settings) as sessions:
        with pytest.raises(QueueError, match="there is no table jobs: import JobRecord"):
            await enqueue(sessions, send, item_id=1)


async def test_jobs_that_could_not_run_stop_the_start(settings: ChassisSettings) -> None:
    with pytest.raises(ValueError, match="two jobs send: @job"):
        create_stock(settings, jobs=(send, job(name="send")(linger.function)))
    with pytest.raises(TypeError, match="is no job: write @job above it"):
        create_stock(settings, jobs=(get_courier,))
    with pytest.raises(TypeError, match="send: courier: the lifespan yields no values of Courier"):
        async with started(create_stock(settings, jobs=(send,))):
            pass
    with pytest.raises(TypeError, match=r"post: mailbox: JSON can hold .*Annotated\[…, Depends"):
        async with started(service(settings, Mailbox("sent"), [post])):
            pass
    with pytest.raises(TypeError, match="must be an `async def`"):
        job(get_courier)  # type: ignore[arg-type]

    @job
    async def untyped(value) -> None:  # type: ignore[no-untyped-def]
        """Have no type."""

    @job
    async def reserved(key: str) -> None:
        """Take what enqueue takes."""

    for wrong, message in [(untyped, "value has no type"), (reserved, "enqueue has a key itself")]:
        with pytest.raises(TypeError, match=message):
            create_stock(settings, jobs=(wrong,))


async def test_a_job_is_a_function_as_well(settings: ChassisSettings) -> None:
    courier = Courier()
    await send(7, run := JobRun(1, 2), courier)
    assert courier.sent == [(7, run, date(2026, 1, 1), None)]


def working(settings: ChassisSettings, log: Path, **variables: str) -> Fork:
    """Run a worker process."""
    environment = environment_of_sample({**write_variables(settings), **variables})
    command = ("chassis_postbox", "work", "--concurrency", "8")
    return Fork(*command, environment=environment, output=log)


async def until_begun(log: Path) -> None:
    """Wait until a worker process has begun eight jobs."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while log.read_text().count("begun: ") < 8:  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)


async def test_a_worker_gives_its_jobs_back_at_sigterm_and_another_one_has_them_at_once(
    settings: ChassisSettings, tmp_path: Path
) -> None:
    limits = {"APP_SERVER_GRACEFUL_TIMEOUT_SECONDS": "4", "APP_JOBS_POLL_SECONDS": "0.2"}
    async with open_sessions(settings) as sessions:
        for number in range(8):
            await enqueue(sessions, chassis_postbox.deliver, name=f"{number}", seconds=60)
        first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"
        with working(settings, first_log, **limits) as first:
            await until_begun(first_log)
            with working(settings, second_log, **limits):
                # The first has no place for it.
                await enqueue(sessions, chassis_postbox.rest)
                await until(sessions, lambda rows: rows[-1].state == JobState.DONE)
                asked = time.monotonic()
                first.send_signal(signal.SIGTERM)
                code = await asyncio.to_thread(first.wait, PATIENCE_SECONDS)
                ended = time.monotonic()
                await until_begun(second_log)
            rows = (await find_rows(sessions))[:8]
    # Of 4 s of grace 2 are for giving them back.
    assert (code, ended - asked < 6) == (0, True)
    # By the database's clock, from when they were given back.
    waits = [row.started_at - row.run_at for row in rows if row.started_at]
    assert len(waits) == 8
    assert max(waits) < timedelta(seconds=1)
    assert {(row.attempts, row.fence) for row in rows} == {(1, 2)}
    log = first_log.read_text()
    assert "Traceback" not in log
    assert '"ERROR"' not in log
