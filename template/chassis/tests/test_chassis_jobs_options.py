"""Jobs that can't be, and arguments that would come back as others: told where they are written."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, Protocol
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from chassis_stock import (
    Item,
    changed,
    create_stock,
    create_tables,
    executing,
    only_on,
    started,
)
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field
from sqlalchemy import select, text

from chassis import ChassisSettings
from chassis.db import DbReadSession, DbSession, Sessions, open_sessions, session_scope
from chassis.jobs import Job, JobRecord, JobState, every, job

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Line(BaseModel):
    product: str


class Discounted(Line):
    percent: int


class Hidden(Line):
    note: str = Field("", exclude=True)


class Remark(Line):
    """A kind of line without a field of its own."""


class Total(BaseModel):
    model_config = ConfigDict(extra="forbid")

    net: int = Field(alias="netTotal")

    @computed_field
    def gross(self) -> int:
        return self.net * 119 // 100


@dataclass
class Slot:
    at: datetime


class Appointment(BaseModel):
    slot: Slot


class Mailer(Protocol):
    def send(self) -> None: ...


def take(kind: Any, name: str = "value") -> Job[...]:
    """Make a job of one argument."""

    namespace: dict[str, Any] = {"kind": kind}
    exec(f"async def work({name}: kind) -> None: ...", namespace)
    return job(namespace["work"])


async def work() -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "retries: Input should be greater than or equal to 0"),
        ({"timeout_seconds": 0}, "timeout_seconds: Input should be greater than 0"),
        ({"timeout_seconds": timedelta(seconds=5)}, "timeout_seconds: Input should be a valid num"),
        ({"priority": 2**31}, "priority: Input should be less than"),
        ({"queue": "mail,events"}, "queue: String should match"),
        ({"queue": ""}, "queue: String should match"),
    ],
)
def test_an_option_that_no_row_can_have_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^@job: \w+: {message}"):
        job(**options)(work)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: job("mail"), "@job: 'mail' must be an `async def`"),  # type: ignore[call-overload]
        (lambda: job(partial(work)), r"@job: functools.partial\(.* must be an `async def`"),
        (lambda: job(job(work)), "must be an `async def`"),
        (lambda: every(job(work)), 'is written @every\\("0 3'),  # type: ignore[arg-type]
        (lambda: every(timedelta(hours=1)), 'is written @every\\("0 3'),  # type: ignore[arg-type]
        (lambda: every("0 3 * * *", timezone=UTC), 'is written @every\\("0 3'),  # type: ignore[arg-type]
        (lambda: take("Order").provided, "work: name 'Order' is not defined: import it, not `if T"),
        (lambda: take(DbSession | None).provided, "value: the worker has values of classes"),
        (lambda: take(Mailer).provided, "value: the worker has values of classes, .*Mailer"),
        (lambda: take(str, "schema").arguments_model, "Pydantic has a schema itself: rename it"),
        (lambda: take(str, "model_config").arguments_model, "has a model_config itself"),
    ],
)
def test_what_can_be_no_job_is_an_error_that_says_so(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (SecretStr, SecretStr("pa55")),
        (Line, Discounted(product="bolt", percent=5)),
        (Line, Remark(product="bolt")),
        (Any, (1, 2)),
        (Hidden, Hidden(product="bolt", note="pa55")),
        (datetime | str, NOW),
        (UUID | str, uuid4()),
        (dict[str, Any], {"at": NOW}),
        (float, float("nan")),
        (bytes, b"\xff"),
        (Any, work),
    ],
)
def test_an_argument_that_would_come_back_as_another_value_is_refused(
    kind: Any, value: object
) -> None:
    with pytest.raises(TypeError, match=r"^work\.enqueue: .*JSON") as raised:
        take(kind).dump_arguments({"value": value})
    assert "pa55" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Total, Total(netTotal=100)),
        (Line | Discounted, Discounted(product="bolt", percent=5)),
        (datetime, NOW),
        (int | str, "7"),
        (int, True),
        (tuple[int, ...], (1, 2)),
        (set[int], {1, 2}),
        (Any, {"at": [1.5, None, "x"]}),
        (str, JobState.DONE),
        (dict[str, int], defaultdict(int, a=1)),
    ],
)
def test_an_argument_comes_back_as_it_was(kind: Any, value: object) -> None:
    taken = take(kind)
    assert taken.load_arguments(taken.dump_arguments({"value": value})) == {"value": value}


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25)])
def test_a_moment_that_a_change_of_summer_time_repeats_or_skips_is_an_argument(
    day: date, fold: int
) -> None:
    at = datetime.combine(day, time(2, 30, fold=fold), ZoneInfo("Europe/Berlin"))
    kinds: list[tuple[Any, Any]] = [
        (datetime, at),
        (list[datetime], [at]),
        (dict[str, datetime], {"at": at}),
        (Slot, Slot(at)),
        (Appointment, Appointment(slot=Slot(at))),
    ]
    for kind, value in kinds:
        taken = take(kind)
        stored = taken.dump_arguments({"value": value})
        assert at.isoformat() in str(stored)
        taken.load_arguments(stored)


@pytest.mark.anyio
async def test_when_a_job_is_due_and_its_key_are_checked_by_both_databases(
    settings: ChassisSettings,
) -> None:
    create_tables(settings)
    note = job(work)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"delay": 5}, "delay: Input should be a valid timedelta"),
        ({"delay": timedelta.max}, "delay: Input should be less than or equal to"),
        ({"key": 7}, "key: Input should be a valid string"),
        ({"key": ""}, "key: String should have at least 1"),
    ]
    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        for options, message in wrong:
            with pytest.raises(TypeError, match=rf"work\.enqueue: {message}"):
                await note.enqueue(session, **options)
        connection: Any = await session.connection()
        with pytest.raises(TypeError, match=r"work\.enqueue: it takes an AsyncSession, not <"):
            await note.enqueue(connection)
        await note.enqueue(session, delay=timedelta(days=-400))
        row = (await session.scalars(select(JobRecord))).one()
        assert abs(row.run_at - row.created_at) < timedelta(minutes=1)


@pytest.mark.anyio
async def test_an_id_that_is_there_already_is_not_taken_for_a_job_that_waits(
    settings: ChassisSettings,
) -> None:
    """As after rows were restored without their sequence: the job would be lost without a word."""
    only_on("postgres", settings)
    create_tables(settings)
    note = job(work)
    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        first = await note.enqueue(session)
        await session.execute(text("SELECT setval('jobs_id_seq', 1, false)"))
        assert await note.enqueue(session) != first


@pytest.mark.anyio
async def test_all_that_a_job_calls_a_session_is_one(settings: ChassisSettings) -> None:
    @job(retries=0)
    async def add(reader: DbReadSession, session: DbSession) -> None:
        session.add(Item(name="added"))
        assert await reader.scalar(select(Item.name)) is None

    create_tables(settings)
    app = create_stock(changed(settings, jobs_poll_seconds=0.05), jobs=(add,))
    async with started(app):
        async with session_scope(app.state.sessions.write) as session:
            await add.enqueue(session)
            await session.commit()
        assert (await until_ended(app.state.sessions)).error is None
    with executing(settings) as connection:
        assert connection.scalars(select(Item.name)).all() == ["added"]


async def until_ended(sessions: Sessions) -> JobRecord:
    """Wait for the end of the only job."""
    ended = select(JobRecord).where(JobRecord.finished_at.is_not(None))
    async with asyncio.timeout(30):
        while True:
            async with session_scope(sessions.read) as session:
                if row := await session.scalar(ended):
                    return row
            await asyncio.sleep(0.02)
