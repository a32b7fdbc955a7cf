"""The pool: a server that restarts, connections that die while idle, more requests than it has."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx2

from tests.postgres import USER
from tests.scale import FULL

from .bank import Bank, Serving
from .embedded import embedded, start_again
from .servers import Cluster

# Its own defaults: APP_DATABASE_CONNECT_TIMEOUT_SECONDS and APP_DATABASE_POOL_TIMEOUT.
CONNECT_SECONDS = 5
POOL_SECONDS = 5
DOWN_SECONDS = 10 if FULL else 3
ROUNDS = 10 if FULL else 3
KILL_ALL = f"""
    SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
    WHERE usename = '{USER}' AND datname =
"""


@dataclass(frozen=True)
class Answer:
    """One answer: to what, when it was asked for, when it came, and whether it is a problem."""

    path: str
    asked: float
    answered: float
    status: int
    is_problem: bool
    retry_after: str | None


@dataclass
class Traffic:
    """Clients that write, read and look at the health of a service, without a pause."""

    answers: list[Answer] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, service: Serving) -> AsyncIterator[None]:
        """Keep asking until the block ends."""
        async with service.client() as client:
            paths = ("/entries", "/entries", "/count", "/count", "/livez", "/readyz")
            tasks = [asyncio.create_task(self._ask(client, path)) for path in paths]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            # Whatever ended one of them before it was cancelled.
            assert all(isinstance(one, asyncio.CancelledError) for one in results), results

    async def _ask(self, client: httpx2.AsyncClient, path: str) -> None:
        while True:
            self.answers.append(await ask(client, path))
            await asyncio.sleep(0.01)


async def ask(client: httpx2.AsyncClient, path: str) -> Answer:
    """Send a request and keep what matters of its answer."""
    asked = time.monotonic()
    if path == "/entries":
        response = await client.post(f"{path}/{uuid4().hex}")
    else:
        response = await client.get(path)
    kind = response.headers.get("content-type")
    return Answer(
        path=path,
        asked=asked,
        answered=time.monotonic(),
        status=response.status_code,
        is_problem=kind == "application/problem+json",
        retry_after=response.headers.get("retry-after"),
    )


def test_a_restart_of_the_server_is_over_as_soon_as_it_accepts_again(tmp_path: Path) -> None:
    traffic = Traffic()

    async def restart(server: Cluster, bank: Bank) -> tuple[float, float, float]:
        with bank.serving() as service:
            # The first one takes its time: it imports Alembic.
            assert (await service.get("/readyz")).status_code == 200
            async with traffic.running(service):
                await asyncio.sleep(1)
                await asyncio.to_thread(server.stop)
                stopped = time.monotonic()
                await asyncio.sleep(DOWN_SECONDS)
                started = time.monotonic()
                await asyncio.to_thread(start_again, server)
                accepts = time.monotonic()
                await asyncio.sleep(1 + DOWN_SECONDS)
        return stopped, started, accepts

    with embedded() as server:
        bank = Bank(server.url(server.create_database()), tmp_path).migrate()
        stopped, started, accepts = asyncio.run(restart(server, bank))

    down = [one for one in traffic.answers if stopped < one.asked and one.answered < started]
    after = [one for one in traffic.answers if one.asked > accepts + 1]
    database = [one for one in down if one.path in ("/entries", "/count")]
    slowest = max(one.answered - one.asked for one in database)
    first = min(one.asked for one in traffic.answers if one.asked > started and one.status == 201)
    print(
        f"down: {summary(down)}, slowest {slowest:.2f} s; first write {first - accepts:.2f} s "
        f"after it accepts; from 1 s after: {summary(after)}"
    )
    assert {(one.status, one.is_problem, one.retry_after) for one in database} == {(503, True, "1")}
    assert slowest < CONNECT_SECONDS + POOL_SECONDS
    assert {one.status for one in down if one.path == "/livez"} == {200}
    # An answer is shared for a second.
    ready = [one for one in down if one.path == "/readyz" and one.asked > stopped + 1]
    assert {(one.status, one.is_problem) for one in ready} == {(503, True)}
    assert {one.status for one in after} == {200, 201}


def test_connections_that_are_killed_while_idle_fail_no_request(
    embedded_server: Cluster, tmp_path: Path
) -> None:
    database = embedded_server.create_database()
    bank = Bank(embedded_server.url(database), tmp_path).migrate()
    bank = bank.set(APP_DATABASE_POOL_SIZE="10", APP_DATABASE_READ_POOL_SIZE="10")
    killed: list[int] = []

    async def kill_often() -> Counter[int]:
        answers: Counter[int] = Counter()
        with bank.serving() as service:
            async with service.client() as client:
                for _ in range(ROUNDS):
                    slow = [client.get("/slow", params={"seconds": 0.2}) for _ in range(10)]
                    reads = [client.get("/count") for _ in range(10)]
                    answers.update(one.status_code for one in await asyncio.gather(*slow, *reads))
                    killed.append(int(embedded_server.execute(f"{KILL_ALL} '{database}'")))
        return answers

    answers = asyncio.run(kill_often())

    print(f"{sum(killed)} connections killed in {ROUNDS} rounds, answers {dict(answers)}")
    assert min(killed) >= 10
    assert answers == {200: 20 * ROUNDS}


def test_more_slow_requests_than_connections_are_answered_and_the_pool_stays_whole(
    bank: Bank,
) -> None:
    bank = bank.set(
        APP_DATABASE_POOL_SIZE="2",
        APP_DATABASE_READ_POOL_SIZE="2",
        APP_DATABASE_POOL_TIMEOUT="2",
    )

    async def crowd() -> tuple[list[Answer], dict[str, int], list[Answer]]:
        with bank.serving() as service:
            async with service.client() as client:
                slow = [ask(client, "/slow?seconds=0.1") for _ in range(200)]
                answers = await asyncio.gather(*slow)
                pools = (await client.get("/pools")).json()
                later = [await ask(client, path) for path in ("/entries", "/count") * 5]
                return answers, pools, later

    answers, pools, later = asyncio.run(crowd())

    slowest = max(one.answered - one.asked for one in answers)
    print(f"{summary(answers)}, slowest {slowest:.2f} s, lent afterwards {pools}")
    assert {one.status for one in answers} == {200, 503}
    assert {one.retry_after for one in answers if one.status == 503} == {"1"}
    assert slowest < 2 + 4
    assert pools == {"write": 0, "read": 0}
    assert {one.status for one in later} == {200, 201}


def summary(answers: list[Answer]) -> str:
    """Count the answers of each kind."""
    counted = Counter((one.path.partition("?")[0], one.status) for one in answers)
    return ", ".join(f"{path} {status}: {times}" for (path, status), times in counted.items())
