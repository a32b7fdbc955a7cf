"""The fixture `jobs` of the test kit, in a pytest of a service's own."""

import pytest
from chassis_forks import RunPytest
from chassis_shelf import REVISION

pytest_plugins = ["pytester"]

MAIN = """
import logging
from typing import Annotated

from fastapi import APIRouter, FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from chassis import ChassisSettings, create_app
from chassis.db import Base, DbSession, Sessions
from chassis.jobs import JobRecord, job

router = APIRouter()


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


@job(retries=1)
async def print_book(title: str, session: AsyncSession) -> None:
    if title.startswith("bad"):
        raise ValueError(title)
    session.add(Book(title=title))
    if title == "Emma":
        await print_book.enqueue(session, title="Emma II")


@router.post("/books/{title}")
async def order(title: str, session: DbSession) -> None:
    await print_book.enqueue(session, title=title)
    await session.commit()


def create_service(settings: ChassisSettings | None = None) -> FastAPI:
    return create_app(
        settings or ChassisSettings(), package="shelf", routers=[router], jobs=[print_book]
    )
"""
JOBS_REVISION = REVISION.replace(
    "import sqlalchemy as sa", "import sqlalchemy as sa\nfrom shelf.main import JobRecord"
).replace(
    "def upgrade() -> None:",
    "def upgrade() -> None:\n    JobRecord.__table__.create(op.get_bind())",
)
TESTS = """
from datetime import timedelta

import pytest
from sqlalchemy import select

from chassis.jobs import JobRecord
from chassis.testing import eventually
from shelf.main import Book, print_book

TITLES = select(Book.title).order_by(Book.id)


async def test_nothing_runs_by_itself_and_all_runs_at_once(client, jobs, session):
    for title in ("Emma", "Dune"):
        await client.post(f"/books/{title}")
    assert await jobs.waiting(print_book) == [{"title": "Emma"}, {"title": "Dune"}]
    assert await session.scalar(TITLES) is None

    assert await jobs.run_all() == 3
    assert set(await session.scalars(TITLES)) == {"Emma", "Dune", "Emma II"}
    assert await jobs.waiting(print_book) == []
    assert await jobs.run_all() == 0


async def test_an_error_is_raised_and_time_can_be_moved_to_the_retry(jobs, session):
    await print_book.enqueue(session, title="bad")
    await session.commit()
    with pytest.raises(ValueError, match="bad"):
        await jobs.run_all()
    assert await jobs.run_all() == 0
    await jobs.move_time(timedelta(minutes=1))
    with pytest.raises(ValueError, match="bad"):
        await jobs.run_all()
    assert await session.scalar(select(JobRecord.state)) == "dead"


async def test_two_errors_are_a_group(jobs, session):
    for title in ("bad", "bad too"):
        await print_book.enqueue(session, title=title)
    await session.commit()
    with pytest.raises(ExceptionGroup, match="jobs have failed"):
        await jobs.run_all()


async def test_a_delay_passes_when_the_time_is_moved(jobs, session):
    await print_book.enqueue(session, title="Dune", delay=timedelta(days=1))
    await session.commit()
    await jobs.move_time(timedelta(hours=23))
    assert await jobs.run_all() == 0
    await jobs.move_time(timedelta(hours=1))
    assert await jobs.run_all() == 1


async def test_a_worker_runs_as_a_process(start_command, client, session):
    worker = start_command("work")
    await client.post("/books/Dune")
    assert await eventually(lambda: session.scalar(TITLES), seconds=30) == "Dune"
    assert worker.stop() == 0


async def test_what_is_not_committed_fails_the_test(jobs, session):
    await print_book.enqueue(session, title="Dune")
    await jobs.run_all()
"""

CLOCK = """
from datetime import timedelta

import pytest
from sqlalchemy import select

from shelf.main import Book, print_book, print_catalogue

TITLES = select(Book.title).order_by(Book.id)


async def test_the_clock_ticks(jobs, session):
    first = await jobs.tick(print_catalogue)
    assert (first.hour, first.minute, first.tzname()) in [(3, 0, "CET"), (3, 0, "CEST")]
    # As long as one waits, there is no second.
    second = await jobs.tick(print_catalogue)
    assert timedelta(hours=23) <= second - first <= timedelta(hours=25)
    assert await jobs.run_all() == 1
    await jobs.tick(print_catalogue)
    assert await jobs.run_all() == 1
    assert list(await session.scalars(TITLES)) == ["Catalogue"] * 2


async def test_without_a_schedule(jobs):
    with pytest.raises(ValueError, match="print_book has no schedule: write @every"):
        await jobs.tick(print_book)
"""


@pytest.fixture
def printer(shelf: pytest.Pytester) -> pytest.Pytester:
    folder = shelf.path / "shelf"
    (folder / "main.py").write_text(MAIN)
    (folder / "migrations" / "versions" / "1_create_books.py").write_text(JOBS_REVISION)
    return shelf


def test_jobs_run_when_a_test_says_so(
    printer: pytest.Pytester, database: str, run_pytest: RunPytest
) -> None:
    printer.makepyfile(TESTS)

    result = run_pytest("--database", database)

    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["E *the fixture `session` has written*: commit before jobs run"])


def test_a_schedule_ticks_when_a_test_says_so(
    printer: pytest.Pytester, database: str, run_pytest: RunPytest
) -> None:
    pytest.importorskip("cronsim", reason="needs the extra `jobs`")
    catalogue = """
@every("0 3 * * *", timezone="Europe/Berlin")
@job
async def print_catalogue(session: AsyncSession) -> None:
    session.add(Book(title="Catalogue"))
"""
    main = printer.path / "shelf" / "main.py"
    text = MAIN.replace("import JobRecord, job", "import JobRecord, JobSchedule, every, job")
    text = text.replace("jobs=[print_book]", "jobs=[print_book, print_catalogue]")
    main.write_text(text.replace("\n\n@router.post", f"\n{catalogue}\n\n@router.post"))
    revision = printer.path / "shelf" / "migrations" / "versions" / "1_create_books.py"
    revision.write_text(
        JOBS_REVISION.replace("import JobRecord", "import JobRecord, JobSchedule").replace(
            "    JobRecord.__table__.create(op.get_bind())",
            "    JobRecord.__table__.create(op.get_bind())\n"
            "    JobSchedule.__table__.create(op.get_bind())",
        )
    )
    printer.makepyfile(CLOCK)

    result = run_pytest("--database", database)

    result.assert_outcomes(passed=2)


def test_an_application_without_jobs_is_told_so(
    shelf: pytest.Pytester, run_pytest: RunPytest
) -> None:
    shelf.makepyfile("async def test_it(jobs): ...")

    result = run_pytest()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the application has no jobs: create_app(*) names them"])
