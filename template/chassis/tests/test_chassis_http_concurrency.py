"""The limit of requests that are served at once: who is refused, and who holds no place."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from chassis_stock import changed, create_stock, started
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from httpx2 import AsyncClient, Response
from starlette.testclient import TestClient

from chassis import ChassisSettings
from chassis.http.problems import MEDIA_TYPE

pytestmark = pytest.mark.anyio

LIMIT = 2
ORIGIN = "https://app.example.com"
MOMENT = 0.1


@dataclass
class Busy:
    """A service whose requests wait until they are released, and how many of them do."""

    client: AsyncClient = field(init=False)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    is_full: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def wait(self) -> str:
        self.waiting += 1
        if self.waiting % LIMIT == 0:
            self.is_full.set()
        await self.released.wait()
        return "done"

    async def fill(self, path: str = "/wait") -> list[asyncio.Task[Response]]:
        """Send as many requests as are served at once; return when they are in their handlers."""
        self.is_full.clear()
        tasks = [asyncio.create_task(self.client.get(path)) for _ in range(LIMIT)]
        await asyncio.wait_for(self.is_full.wait(), 10)
        return tasks


@asynccontextmanager
async def busy(settings: ChassisSettings, **changes: Any) -> AsyncIterator[Busy]:
    service, router = Busy(), APIRouter()

    @router.get("/wait")
    async def wait() -> str:
        return await service.wait()

    @router.get("/fail")
    async def fail() -> None:
        raise RuntimeError("a bug")

    @router.get("/one")
    async def one() -> int:
        return 1

    limited = changed(settings, **{"http_max_concurrent_requests": LIMIT} | changes)
    async with started(create_stock(limited, router)) as client:
        service.client = client
        try:
            yield service
        finally:
            service.released.set()


async def test_the_request_above_the_limit_is_refused_and_the_others_are_served(
    settings: ChassisSettings,
) -> None:
    async with busy(settings, http_cors_origins=(ORIGIN,)) as service:
        tasks = await service.fill()
        refused = await service.client.get("/one", headers={"Origin": ORIGIN})
        service.released.set()
        served = await asyncio.gather(*tasks)
        after = await service.client.get("/one")

    assert (refused.status_code, refused.headers["content-type"]) == (503, MEDIA_TYPE)
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert "as many requests as it serves at once" in refused.json()["detail"]
    assert [answer.status_code for answer in (*served, after)] == [200, 200, 200]


@pytest.mark.parametrize("prefix", ["", "/shop"])
async def test_probes_are_answered_however_many_requests_run(
    settings: ChassisSettings, prefix: str
) -> None:
    async with busy(settings, server_root_path=prefix) as service:
        await service.fill()
        assert (await service.client.get(f"{prefix}/one")).status_code == 503
        # A prefix that a proxy left in the path is taken off by the server, which is not here.
        assert (await service.client.get("/livez")).status_code == 200
        assert "refused" not in (await service.client.get("/readyz")).text
        assert (await service.client.get("/metrics")).status_code == 404


async def test_metrics_are_answered_and_count_what_was_refused(settings: ChassisSettings) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    names = (
        "http_requests_refused_total",
        'http_requests_total{method="GET",route="/one",status="503"}',
    )

    async def read(client: AsyncClient) -> list[float]:
        lines = (await client.get("/metrics")).text.splitlines()
        found = {name: value for name, _, value in (line.rpartition(" ") for line in lines)}
        return [float(found.get(name, 0)) for name in names]

    async with busy(settings, metrics_enabled=True) as service:
        before = await read(service.client)
        await service.fill()
        assert (await service.client.get("/one")).status_code == 503
        after = await read(service.client)

    assert [now - then for then, now in zip(before, after, strict=True)] == [1, 1]


async def test_a_request_that_fails_or_takes_too_long_or_is_left_holds_no_place(
    settings: ChassisSettings,
) -> None:
    async with busy(settings, http_request_timeout_seconds=MOMENT) as service:
        failed = [(await service.client.get("/fail")).status_code for _ in range(LIMIT)]
        late = [answer.status_code for answer in await asyncio.gather(*await service.fill())]
        left = await service.fill()
        for task in left:
            task.cancel()
        await asyncio.wait(left)
        assert (await service.client.get("/one")).status_code == 200

    assert (failed, late) == ([500] * LIMIT, [504] * LIMIT)


def create_stream(settings: ChassisSettings, has_begun: asyncio.Event) -> FastAPI:
    router = APIRouter()

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            has_begun.set()
            yield "one"
            await asyncio.sleep(MOMENT)

        return StreamingResponse(parts())

    @router.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    return create_stock(changed(settings, http_max_concurrent_requests=LIMIT), router)


async def test_a_stream_holds_no_place_once_it_has_begun(settings: ChassisSettings) -> None:
    has_begun, streams = asyncio.Event(), []
    async with started(create_stream(settings, has_begun)) as client:
        for _ in range(3 * LIMIT):
            streams.append(asyncio.create_task(client.get("/stream")))
            await asyncio.wait_for(has_begun.wait(), 10)
            has_begun.clear()
        assert {answer.status_code for answer in await asyncio.gather(*streams)} == {200}


def test_a_websocket_holds_no_place(settings: ChassisSettings) -> None:
    with TestClient(create_stream(settings, asyncio.Event())) as client:
        sockets = [client.websocket_connect("/socket") for _ in range(2 * LIMIT)]
        for socket in sockets:
            socket.__enter__()
        assert client.get("/openapi.json").status_code == 200
        for socket in sockets:
            socket.send_text("end")
            socket.__exit__(None, None, None)


async def test_the_document_names_the_503_where_there_is_a_limit(settings: ChassisSettings) -> None:
    for limit in (0, LIMIT):
        async with busy(settings, http_max_concurrent_requests=limit) as service:
            document = (await service.client.get("/openapi.json")).json()
        assert ("503" in document["paths"]["/one"]["get"]["responses"]) == bool(limit)


async def test_without_a_limit_nothing_is_in_the_way(
    settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "chassis.http.concurrency", raising=False)
    async with busy(settings, http_max_concurrent_requests=0) as service:
        await service.fill()
        assert (await service.client.get("/one")).status_code == 200
    assert "chassis.http.concurrency" not in sys.modules
