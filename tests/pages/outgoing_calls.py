"""The guide's page of outgoing calls: its own text calls a real server, which behaves badly."""

import asyncio
import importlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from tests.pages._service import PACKAGE
from tests.postgres import HOST, free_port
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/outgoing_calls.md"
PRICE = b'{"item_id": 7, "amount": "9.90"}'
SENT = {"X-Request-ID": "abc-1", "traceparent": f"00-{'4b' * 16}-{'f0' * 8}-01"}
# What the other service does instead of an answer.
HANG_UP, SAY_NOTHING, DRIP = object(), object(), object()


def respond(status: int, body: bytes = b"", *headers: str) -> bytes:
    """Write an answer as it goes over the wire."""
    head = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class PriceService:
    """A server that does as its script says, path by path, and keeps the heads of its requests."""

    def __init__(self, script: dict[str, list[Any]]) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.script = script
        self.heads: defaultdict[str, list[str]] = defaultdict(list)

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the requests of a connection until it ends."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split()[1]
                self.heads[path].append(head)
                await self.follow_script(self.script[path].pop(0), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def follow_script(self, step: object, writer: asyncio.StreamWriter) -> None:
        """Answer, or do something else."""
        if isinstance(step, bytes):
            writer.write(step)
        elif step is HANG_UP:
            raise ConnectionAbortedError
        elif step is SAY_NOTHING:
            await asyncio.sleep(60)
        elif step is DRIP:
            writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen."""
        server = await asyncio.start_server(self.serve_connection, HOST, self.port)
        try:
            yield
        finally:
            server.close()


@dataclass
class Calling:
    """The page's service, started, and the one that it calls."""

    client: httpx2.AsyncClient
    prices: PriceService

    async def read_price(self, number: int) -> tuple[int, int]:
        """Read a price; return the status, and how many calls it took."""
        answer = await self.client.get(f"/prices/{number}", headers=SENT)
        return answer.status_code, len(self.prices.heads[f"/prices/{number}"])


@asynccontextmanager
async def calling(script: dict[str, list[Any]]) -> AsyncIterator[Calling]:
    """Serve the page's service, beside a price service with a script."""
    prices = PriceService(script)
    settings = importlib.import_module(f"{PACKAGE}.settings").Settings(prices_url=prices.url)
    app = importlib.import_module(f"{PACKAGE}.main").create_service(settings)
    async with prices.running(), serving(app) as client:
        yield Calling(client, prices)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    base_url = f"http://{HOST}:{port}"
    async with httpx2.AsyncClient(base_url=base_url, timeout=30, trust_env=False) as client:
        yield client
    server.should_exit = True
    await task


@pytest.mark.usefixtures("service")
def test_a_call_has_the_ids_of_its_request_and_no_cookie_of_another() -> None:
    async def check() -> None:
        set_cookie = respond(200, PRICE, "Set-Cookie: user=ada")
        async with calling({"/prices/7": [set_cookie, respond(200, PRICE)]}) as service:
            answer = await service.client.get("/prices/7", headers=SENT)
            assert answer.json() == {"item_id": 7, "amount": "9.90"}
            await service.client.get("/prices/7")
        first, second = (head.lower() for head in service.prices.heads["/prices/7"])
        assert "x-request-id: abc-1\r\n" in first
        assert f"traceparent: {SENT['traceparent']}\r\n" in first
        assert "x-request-id: " in second
        assert "abc-1" not in second
        assert "cookie" not in second

    asyncio.run(check())


@pytest.mark.usefixtures("service")
def test_a_get_is_tried_again_and_a_failure_is_answered() -> None:
    good, busy = respond(200, PRICE), respond(503)
    cases: dict[int, tuple[list[Any], tuple[int, int]]] = {
        1: ([busy, good], (200, 2)),
        2: ([HANG_UP, good], (200, 2)),
        3: ([HANG_UP, busy, good], (200, 3)),
        4: ([busy, busy, busy], (502, 3)),
        5: ([HANG_UP, HANG_UP, HANG_UP], (502, 3)),
        6: ([respond(500)], (502, 1)),
        7: ([respond(404)], (404, 1)),
        8: ([respond(200, b"no JSON")], (502, 1)),
        9: ([SAY_NOTHING], (504, 1)),
        10: ([DRIP], (504, 1)),
    }

    async def check() -> None:
        script = {f"/prices/{number}": steps for number, (steps, _) in cases.items()}
        async with calling(script) as service:
            async with asyncio.timeout(15):
                found = await asyncio.gather(*map(service.read_price, cases))
        assert dict(zip(cases, found, strict=True)) == {
            number: expected for number, (_, expected) in cases.items()
        }

    asyncio.run(check())


@pytest.mark.usefixtures("service")
def test_what_changes_something_is_not_sent_twice() -> None:
    async def check() -> None:
        prices = PriceService({"/prices": [HANG_UP, respond(200)]})
        clients = importlib.import_module(f"{PACKAGE}.clients")
        async with prices.running(), clients.create_client(prices.url) as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.post("/prices", json={})
        assert len(prices.heads["/prices"]) == 1

    asyncio.run(check())


@pytest.mark.usefixtures("service")
def test_the_log_tells_of_a_failure_without_its_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def check() -> None:
        async with calling({"/prices/7": [respond(500)]}) as service:
            await service.read_price(7)

    asyncio.run(check())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(PACKAGE)]
    assert lines == ["The price service answered 500"]
    assert "/prices" not in caplog.text
