"""Jobs while their workers die: none is lost, none runs twice at a moment, and none of a rollback.

`pytest -s` shows the figures.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from chassis.db import DatabaseSettings, open_sessions, session_scope
from chassis.db.migrations.connect import open_connection
from chassis.jobs import JobRecord
from pydantic import SecretStr
from sqlalchemy import Engine, Select, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tests.postgres import HOST
from tests.scale import FULL

from .errands import TASKS, Run, Wish, fulfil, linger, whisper
from .servers import Cluster, Pooler, Relay
from .service import wait_until

# Of kills; in none each process is killed once.
SECONDS = 60 if FULL else 0
WORKERS, PRODUCERS = 4, 2 if FULL else 1
LONGEST_LIFE_SECONDS = 16 if FULL else 8
POOLED_WORKERS = 3
POOLED_SECONDS = 60 if FULL else 3
LEASE_SECONDS = 4
# Of a claim, until the job's first line has run.
START_SECONDS = 1
LONG_JOBS = 8
GRACE_SECONDS = 4
AWAY_SECONDS = 20 if FULL else 3
ENDS_WITHIN_SECONDS = 120


@dataclass
class Errands:
    """A database with the tables, and the processes that were started on it."""

    url: str
    engine: Engine
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    # When each process was killed.
    killed: dict[int, float] = field(default_factory=dict)

    @property
    def settings(self) -> DatabaseSettings:
        """The settings of the database."""
        return DatabaseSettings(database_url=SecretStr(self.url), secrets_dir=self.folder / "none")

    def start(self, command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a worker or a producer; it is ready some time later."""
        given = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "APP_DATABASE_URL": self.url,
            "APP_JOBS_LEASE_SECONDS": str(LEASE_SECONDS),
            "APP_JOBS_POLL_SECONDS": "0.2",
            "APP_LOG_FORMAT": "json",
            **self.variables,
            **variables,
        }
        with (self.folder / f"{command}.log").open("ab") as log:
            arguments = [sys.executable, "-c", "import errands; errands.run()", command]
            return subprocess.Popen(arguments, env=given, cwd=self.folder, stdout=log, stderr=log)

    @contextmanager
    def started(self, number: int, command: str, **variables: str) -> Iterator[list[Any]]:
        """Start several processes; what runs of them at the end is killed."""
        processes = [self.start(command, **variables) for _ in range(number)]
        try:
            yield processes
        finally:
            for process in processes:
                self.kill(process)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process, and note when it was dead."""
        process.kill()
        process.wait()
        self.killed[process.pid] = time.time()

    def count(self, model: Any, *where: Any) -> int:
        """Count rows."""
        return int(self.read(select(func.count()).select_from(model).where(*where)))

    def read(self, query: Select[Any]) -> Any:
        """Read a value."""
        with self.engine.connect() as connection:
            return connection.scalar(query)

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many processes have run a job."""
        ran = select(func.count(Run.process.distinct()))
        wait_until(lambda: self.read(ran) == number, f"{number} workers", ENDS_WITHIN_SECONDS)

    def wait_for_run(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait until a worker is at a job."""
        is_at_it = (Run.process == worker.pid, Run.ended.is_(None))
        wait_until(lambda: self.count(Run, *is_at_it) > 0, "a run", ENDS_WITHIN_SECONDS)

    def read_runs(self) -> dict[int, list[Any]]:
        """Read the runs of each number, in their order."""
        runs: dict[int, list[Any]] = {}
        with self.engine.connect() as connection:
            for run in connection.execute(select(Run.__table__).order_by(Run.began)):
                runs.setdefault(run.number, []).append(run)
        return runs

    def read_ends(self) -> dict[int, float]:
        """Read when runs were over whose process lived."""
        lines = (line.split() for line in (self.folder / "ends").read_text().splitlines())
        return {int(run_id): float(moment) for run_id, moment in lines}

    def read_wishes(self) -> set[int]:
        """Read the numbers that were committed."""
        with self.engine.connect() as connection:
            return set(connection.scalars(select(Wish.number)))

    def has_jobs(self) -> bool:
        """Say whether there is a job that waits or runs."""
        return self.count(JobRecord, JobRecord.state.in_(["waiting", "running"])) > 0

    def read_hand_overs(self) -> tuple[float, list[float]]:
        """Read when running jobs were given back, and how long each then waited for a worker.

        Both by the database's clock: how busy this process is does not matter.
        """
        jobs: Any = JobRecord.metadata.tables["jobs"].c
        with self.engine.connect() as connection:
            moments = connection.execute(
                select(jobs.run_at, jobs.started_at).where(jobs.fence == 2)
            ).all()
        last = max(run_at for run_at, _ in moments).timestamp()
        return last, [(started - run_at).total_seconds() for run_at, started in moments]

    def read_log(self, command: str = "work") -> str:
        """Read what all processes of a command have logged."""
        return (self.folder / f"{command}.log").read_text()


@contextmanager
def made_errands(url: str, folder: Path) -> Iterator[Errands]:
    """Make the tables in a database."""
    driver = url.replace("postgres://", "postgresql+psycopg://")
    errands = Errands(url, create_engine(driver), folder)
    with open_connection(errands.settings) as connection:
        tables = [JobRecord.metadata.tables[name] for name in ("wish", "run", "jobs")]
        JobRecord.metadata.create_all(connection, tables=tables)
        connection.commit()
    yield errands
    errands.engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def errands(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Errands]:
    """The service on a database of the test's own, on either backend."""
    url = f"sqlite:///{tmp_path}/errands.db"
    if request.param == "postgres":
        server: Cluster = request.getfixturevalue("embedded_server")
        url = server.url(server.create_database())
    with made_errands(url, tmp_path) as made:
        yield made


@pytest.fixture
def errands_behind_pgbouncer(
    plain_server: Cluster, transaction_pooler: Pooler, tmp_path: Path
) -> Iterator[Errands]:
    """The service behind a PgBouncer; the test itself goes past it."""
    database = plain_server.create_database()
    with made_errands(plain_server.url(database), tmp_path) as made:
        variables = {
            "APP_DATABASE_PGBOUNCER": "true",
            # A queue with a limit is locked at each claim.
            "APP_JOBS_QUEUE_LIMITS": f"default={3 * POOLED_WORKERS}",
            # On a busy machine any is slow.
            "APP_DATABASE_SLOW_QUERY_SECONDS": "60",
        }
        yield replace(made, url=transaction_pooler.url(database), variables=variables)


def kill_at_random_moments(errands: Errands, workers: list[Any], producers: list[Any]) -> None:
    """Kill each process once, workers at a job, then any worker; start another in its place."""
    processes = {"work": workers, "produce": producers}
    places = [(command, place) for command in processes for place in range(len(processes[command]))]
    deadline = time.monotonic() + SECONDS
    turns = random.sample(places, len(places))
    while turns or time.monotonic() < deadline:
        is_first = bool(turns)
        command, place = turns.pop() if turns else ("work", random.randrange(WORKERS))
        time.sleep(random.uniform(0, LONGEST_LIFE_SECONDS / WORKERS))
        if is_first and command == "work":
            errands.wait_for_run(processes[command][place])
        errands.kill(processes[command][place])
        processes[command][place] = errands.start(command)


def find_doubles(errands: Errands, runs: dict[int, list[Any]]) -> list[tuple[Any, Any]]:
    """Find runs of one job that began before the run before them was over, or its lease."""
    ends = errands.read_ends()
    pairs = [pair for each in runs.values() for pair in pairwise(each)]
    return [
        (first, second)
        for first, second in pairs
        if second.began < (ends.get(first.id) or errands.killed[first.process])
        or second.began < first.began + LEASE_SECONDS - START_SECONDS
    ]


def test_no_job_is_lost_or_run_twice_at_a_moment_when_processes_are_killed(
    errands: Errands,
) -> None:
    with errands.started(WORKERS, "work") as workers:
        with errands.started(PRODUCERS, "produce") as producers:
            errands.wait_for_workers(WORKERS)
            kill_at_random_moments(errands, workers, producers)
        wait_until(lambda: not errands.has_jobs(), "the last job", ENDS_WITHIN_SECONDS)

    runs, wishes = errands.read_runs(), errands.read_wishes()
    again = sum(len(each) - 1 for each in runs.values())
    lost = wishes - {number for number, each in runs.items() if any(run.ended for run in each)}
    # Those below zero were rolled back, with their wishes.
    of_rollbacks = {number for number in runs.keys() | wishes if number < 0}
    doubles = find_doubles(errands, runs)
    print(
        f"{len(wishes)} jobs, {len(errands.killed)} kills, {again} runs again, {len(lost)} lost, "
        f"{len(doubles)} at the same moment, {len(of_rollbacks)} of a rollback"
    )
    assert (lost, doubles, of_rollbacks) == (set(), [], set())
    # Else none was killed at its work.
    assert again
    assert errands.count(JobRecord, JobRecord.state != "done") == 0


def test_jobs_that_are_enqueued_after_the_commit_are_lost(errands: Errands) -> None:
    with errands.started(1, "produce", APP_ENQUEUE_AFTER_COMMIT="true"):
        wait_until(lambda: errands.count(Wish) > TASKS, "wishes", ENDS_WITHIN_SECONDS)
    with errands.started(1, "work"):
        wait_until(lambda: not errands.has_jobs(), "the last job", ENDS_WITHIN_SECONDS)

    runs, wishes = errands.read_runs(), errands.read_wishes()
    print(f"{len(wishes - runs.keys())} jobs lost of {len(wishes)}")
    assert runs
    assert runs.keys() < wishes


def test_behind_pgbouncer_several_workers_have_no_error(
    errands_behind_pgbouncer: Errands,
) -> None:
    pooled = errands_behind_pgbouncer

    with pooled.started(POOLED_WORKERS, "work") as workers:
        with pooled.started(1, "produce") as [producer]:
            pooled.wait_for_workers(POOLED_WORKERS)
            time.sleep(POOLED_SECONDS)
            assert producer.poll() is None
        wait_until(lambda: not pooled.has_jobs(), "the last job", ENDS_WITHIN_SECONDS)
        codes = [stop(worker) for worker in workers]

    runs, wishes = pooled.read_runs(), pooled.read_wishes()
    print(f"{len(wishes)} jobs behind PgBouncer")
    assert codes == [0] * POOLED_WORKERS
    assert {number: len(each) for number, each in runs.items()} == dict.fromkeys(wishes, 1)
    assert {run.process for each in runs.values() for run in each} == {
        worker.pid for worker in workers
    }
    lines = map(json.loads, pooled.read_log().splitlines())
    warnings = [line for line in lines if line["level"] != "INFO"]
    # On a busy machine that, too, is slow.
    assert [line for line in warnings if "held its transaction" not in line["message"]] == []


def stop(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM and return the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(ENDS_WITHIN_SECONDS)


def test_what_runs_at_a_stop_runs_elsewhere_within_a_second(errands: Errands) -> None:
    variables = {
        "APP_JOBS_CONCURRENCY": str(LONG_JOBS),
        # Far longer than the test: nobody waits for it.
        "APP_JOBS_LEASE_SECONDS": "600",
        "APP_SERVER_GRACEFUL_TIMEOUT_SECONDS": str(GRACE_SECONDS),
    }
    enqueue(errands, *(partial(linger.enqueue, number=number) for number in range(LONG_JOBS)))
    with errands.started(1, "work", **variables) as [first]:
        wait_until(lambda: errands.count(Run) == LONG_JOBS, "the runs", ENDS_WITHIN_SECONDS)
        with errands.started(1, "work", **variables) as [second]:
            # The first has no place for it.
            enqueue(errands, partial(fulfil.enqueue, number=-1, seconds=0))
            errands.wait_for_workers(2)
            began = time.time()
            assert stop(first) == 0
            ended = time.time()
            everywhere = 2 * LONG_JOBS + 1
            wait_until(lambda: errands.count(Run) == everywhere, "the runs elsewhere")
            given_back, waits = errands.read_hand_overs()
            runs = errands.read_runs()

    del runs[-1]
    print(
        f"{given_back - began:.1f} s after SIGTERM given back, ended after {ended - began:.1f} s, "
        f"running elsewhere {max(waits):.2f} s after they were given back"
    )
    assert {each[1].process for each in runs.values()} == {second.pid}
    assert len(waits) == LONG_JOBS
    assert given_back - began < GRACE_SECONDS
    # What an interpreter takes to end comes on top.
    assert ended - began < GRACE_SECONDS + 1
    assert max(waits) < 1


def test_a_worker_that_was_frozen_past_its_lease_has_lost_its_job(errands: Errands) -> None:
    enqueue(errands, partial(fulfil.enqueue, number=1, seconds=1))
    with errands.started(1, "work") as [first]:
        errands.wait_for_workers(1)
        first.send_signal(signal.SIGSTOP)
        with errands.started(1, "work"):
            is_done = Run.ended.is_not(None)
            wait_until(lambda: errands.count(Run, is_done) == 1, "the second", ENDS_WITHIN_SECONDS)
            first.send_signal(signal.SIGCONT)
            wait_until(lambda: "lost its lease" in errands.read_log(), "the first")
            assert stop(first) == 0

    [[lost, kept]] = errands.read_runs().values()
    assert lost.process == first.pid != kept.process
    assert lost.ended is None
    assert {*errands.read_ends()} == {lost.id, kept.id}
    assert errands.count(JobRecord, JobRecord.state == "done", JobRecord.attempts == 2) == 1


@contextmanager
def locked(errands: Errands) -> Iterator[None]:
    """Let nobody write to a SQLite file."""
    with closing(sqlite3.connect(errands.folder / "errands.db")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def cut(relay: Relay, to: int) -> Iterator[None]:
    """Cut all connections and take none."""
    relay.close()
    yield
    Relay(HOST, relay.port, to)


def test_what_ends_while_the_database_is_away_is_done_once(errands: Errands) -> None:
    away = locked(errands)
    if port := urlsplit(errands.url).port:
        relay = Relay(HOST, 0, to=port)
        errands.url = errands.url.replace(f":{port}/", f":{relay.port}/")
        away = cut(relay, to=port)
    variables = {"APP_JOBS_LEASE_SECONDS": "600", "APP_DATABASE_SQLITE_BUSY_TIMEOUT": "500"}
    enqueue(errands, partial(whisper.enqueue, number=1, seconds=2))
    with errands.started(1, "work", **variables) as [worker]:
        is_begun = partial(errands.count, JobRecord, JobRecord.fence == 1)
        wait_until(lambda: is_begun() == 1, "the job", ENDS_WITHIN_SECONDS)
        with away:
            wait_until((errands.folder / "ends").exists, "its end")
            time.sleep(AWAY_SECONDS)
        back = time.monotonic()
        wait_until(lambda: not errands.has_jobs(), "the last job", ENDS_WITHIN_SECONDS)
        print(f"reported {time.monotonic() - back:.1f} s after the database was back")
        enqueue(errands, partial(whisper.enqueue, number=2, seconds=0))
        wait_until(lambda: not errands.has_jobs(), "a job after it")
        assert stop(worker) == 0
    assert errands.count(JobRecord, JobRecord.state == "done", JobRecord.attempts == 1) == 2


def enqueue(errands: Errands, *calls: Callable[[AsyncSession], Awaitable[int]]) -> None:
    """Enqueue jobs in one transaction."""

    async def enqueue_all() -> None:
        async with (
            open_sessions(errands.settings) as sessions,
            session_scope(sessions.write) as session,
        ):
            for call in calls:
                await call(session)
            await session.commit()

    asyncio.run(enqueue_all())
