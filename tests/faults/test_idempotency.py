"""One key, many requests, and a kill -9 between the commit and its answer: one row, one answer."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from tests.scale import FULL

from .bank import ANSWERS_WITHIN_SECONDS, Bank
from .servers import Cluster, Pooler

KILLS = 20 if FULL else 1
CLIENTS = 50
SHORT_SECONDS = 0.05
Answer = tuple[int, bytes]


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_fifty_requests_and_a_kill_make_one_row_and_one_answer(
    bank: Bank, options: Sequence[str]
) -> None:
    for _ in range(KILLS):
        answers, rows = send_and_kill(bank, "/orders", options)
        assert len(answers) == 1, answers
        assert rows == 1


def test_it_is_so_behind_pgbouncer(
    plain_server: Cluster, transaction_pooler: Pooler, tmp_path: Path
) -> None:
    """Each transaction may have another connection: the lock is the transaction's own."""
    name = plain_server.create_database()
    Bank(plain_server.url(name), tmp_path).migrate()
    bank = Bank(transaction_pooler.url(name), tmp_path).set(APP_DATABASE_PGBOUNCER="true")

    answers, rows = send_and_kill(bank, "/orders", ("--workers", "2"))

    assert len(answers) == 1, answers
    assert rows == 1


def test_a_key_that_is_kept_by_a_commit_of_its_own_is_caught_by_this(bank: Bank) -> None:
    answers, rows = send_and_kill(bank, "/apart", ())

    assert len(answers) == 1
    assert rows == 0


def send_and_kill(bank: Bank, path: str, options: Sequence[str]) -> tuple[set[Answer], int]:
    """Send a request by many clients until each has its answer; kill who serves it first.

    Return the answers, and how many rows they made.
    """
    name, crash = uuid4().hex, bank.folder / "crash"
    crash.touch()

    async def serve_twice() -> tuple[set[Answer], int]:
        with ExitStack() as services:
            service = services.enter_context(bank.serving(*options))
            urls = [service.url]
            async with service.client() as client:
                request, key = f"{path}/{name}?crash={crash}", {"Idempotency-Key": name}
                sending = asyncio.gather(
                    *(send(client, urls, request, key) for _ in range(CLIENTS))
                )
                await until_it_is_gone(crash)
                if not options:
                    await asyncio.to_thread(service.process.wait)
                    service = await asyncio.to_thread(services.enter_context, bank.serving())
                    urls.append(service.url)
                answers = {*await sending}
            kept = (await service.get("/entries")).json()
        return answers, sum(entry.startswith(name) for entry in kept)

    return asyncio.run(serve_twice())


async def send(
    client: httpx2.AsyncClient, urls: list[str], request: str, key: dict[str, str]
) -> Answer:
    """Send a request until it is answered, to whoever serves now."""
    while True:
        with suppress(httpx2.TransportError):
            answer = await client.post(urls[-1] + request, headers=key)
            if answer.status_code not in (409, 503):
                return answer.status_code, answer.content
        await asyncio.sleep(SHORT_SECONDS)


async def until_it_is_gone(file: Path) -> None:
    """Wait until the service has removed a file."""
    async with asyncio.timeout(ANSWERS_WITHIN_SECONDS):
        while file.exists():
            await asyncio.sleep(SHORT_SECONDS)
