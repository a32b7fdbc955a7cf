"""Metrics: what is counted, by which labels, and where it can be read."""

import asyncio
import random
import string
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from chassis_processes import free_port
from chassis_stock import changed, create_stock, started
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from httpx2 import AsyncClient, ConnectError
from sqlalchemy import text
from starlette.middleware.base import RequestResponseEndpoint
from starlette.types import Message

from chassis import ChassisSettings
from chassis.db import DbReadSession

pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")

Samples = dict[str, float]


class Service:
    """An application that counts, started, and what holds its requests."""

    def __init__(self, app: FastAPI, client: AsyncClient) -> None:
        self.app = app
        self.client = client
        self.released = asyncio.Event()
        self.entered = 0

    async def read(self) -> Samples:
        """Scrape; a scrape is a request, too."""
        return samples((await self.client.get("/metrics")).text)

    async def wait_for(self, condition: Callable[[Samples], bool]) -> Samples:
        """Scrape until something is so."""
        async with asyncio.timeout(60):
            while True:
                if condition(found := await self.read()):
                    return found
                await asyncio.sleep(0.01)


@asynccontextmanager
async def counting(settings: ChassisSettings, **changes: object) -> AsyncIterator[Service]:
    chosen = changed(settings, metrics_enabled=True, log_access=False, **changes)
    router = APIRouter(prefix="/items")
    app = create_stock(chosen)

    @router.get("/{item_id}")
    async def read_item(item_id: int, session: DbReadSession) -> None:
        if item_id == 404:
            raise HTTPException(404)
        await session.execute(text("SELECT 1"))
        await session.execute(text("SELECT 2"))

    @router.delete("/{item_id}")
    async def delete_item(item_id: int) -> None:
        raise RuntimeError("a bug")

    @router.get("/{item_id}/wait")
    async def wait(item_id: int) -> None:
        service.entered += 1
        await service.released.wait()

    @router.get("/{item_id}/parts")
    async def stream(item_id: int) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            await wait(item_id)

        return StreamingResponse(parts())

    @router.get("/{item_id}/hold")
    async def hold(item_id: int, session: DbReadSession) -> None:
        await session.execute(text("SELECT 1"))
        await service.released.wait()

    app.include_router(router)
    async with started(app) as client:
        service = Service(app, client)
        yield service


def samples(page: str) -> Samples:
    """Read a page of metrics: values by their names with labels."""
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def requests(method: str, route: str, status: int) -> str:
    return f'http_requests_total{{method="{method}",route="{route}",status="{status}"}}'


def durations(part: str, method: str, route: str, more: str = "") -> str:
    return f'http_request_duration_seconds_{part}{{{more}method="{method}",route="{route}"}}'


def rise(before: Samples, after: Samples, names: Iterable[str]) -> list[float]:
    return [after.get(name, 0) - before.get(name, 0) for name in names]


async def ask(app: FastAPI, method: str, path: str, gone: asyncio.Event | None = None) -> None:
    """Send a request without a client's work; the client goes away when it is told to."""
    body: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "scheme": "http", "query_string": b"", "headers": []}
    await app({**scope, "method": method, "path": path}, receive, send)


async def test_a_request_that_a_middleware_refuses_counts_for_its_route(
    settings: ChassisSettings,
) -> None:
    app = create_stock(changed(settings, metrics_enabled=True))

    @app.get("/refused/{item_id}")
    async def read_item(item_id: int) -> None: ...

    @app.middleware("http")
    async def refuse(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.url.path.startswith("/refused"):
            return Response(status_code=403)
        return await call_next(request)

    async with started(app) as client:
        name = requests("GET", "/refused/{item_id}", 403)
        before = samples((await client.get("/metrics")).text)
        await client.get("/refused/1")
        assert rise(before, samples((await client.get("/metrics")).text), [name]) == [1]


async def test_labels_stay_few_whatever_is_asked_for(settings: ChassisSettings) -> None:
    chance = random.Random(1)

    def word() -> str:
        return "".join(chance.choices(string.ascii_letters, k=12))

    async with counting(settings) as service:
        await service.read()
        before = await service.read()
        for number in range(10_000):
            method = word() if number % 2 else chance.choice(["GET", "PUT", "QUERY"])
            path = f"/items/{word()}" if number % 3 else f"/{word()}/{word()}"
            await ask(service.app, method, path)
        after = await service.read()

    statuses = [("/items/{item_id}", status) for status in (405, 422)]
    new = {name for name in after.keys() - before.keys() if name.startswith("http_requests_total")}
    assert new <= {
        requests(method, route, status)
        for method in ("GET", "PUT", "OTHER")
        for route, status in [*statuses, ("(no route)", 404)]
    }
    answered = [name for name in after if name.startswith("http_requests_total")]
    # And the first of the scrapes.
    assert sum(rise(before, after, answered)) == 10_001
    assert len(after) - len(before) < 200


async def test_each_request_is_counted_and_timed_by_its_route(settings: ChassisSettings) -> None:
    asked = [
        ("GET", "/items/7", "/items/{item_id}", 200),
        ("GET", "/items/8", "/items/{item_id}", 200),
        ("GET", "/items/404", "/items/{item_id}", 404),
        ("GET", "/items/x", "/items/{item_id}", 422),
        ("DELETE", "/items/7", "/items/{item_id}", 500),
        ("GET", "/nowhere", "(no route)", 404),
        ("GET", "/livez", "/livez", 200),
    ]
    counters = {requests(method, route, status) for method, _, route, status in asked}
    timers = {(method, route) for method, _, route, _ in asked}
    async with counting(settings) as service:
        before = await service.read()
        for method, path, *_ in asked:
            await service.client.request(method, path)
        after = await service.read()

    assert dict(zip(counters, rise(before, after, counters), strict=True)) == {
        name: 2 if name == requests("GET", "/items/{item_id}", 200) else 1 for name in counters
    }
    for method, route in timers:
        times = [one for one in asked if (one[0], one[2]) == (method, route)]
        names = (durations("count", method, route), durations("sum", method, route))
        infinite = durations("bucket", method, route, 'le="+Inf",')
        count, seconds = rise(before, after, names)
        assert count == rise(before, after, [infinite])[0] == len(times)
        assert 0 < seconds < 60


async def test_a_request_is_in_flight_until_it_is_answered(settings: ChassisSettings) -> None:
    async with counting(settings) as service, asyncio.TaskGroup() as tasks:
        # The scrape itself is the one.
        assert (await service.read())["http_requests_in_flight"] == 1
        for number in range(2):
            tasks.create_task(ask(service.app, "GET", f"/items/{number}/wait"))
        during = await service.wait_for(lambda _: service.entered == 2)
        assert during["http_requests_in_flight"] == 3
        service.released.set()
        await service.wait_for(lambda now: now["http_requests_in_flight"] == 1)


@pytest.mark.parametrize(("route", "status"), [("wait", 503), ("parts", 200)])
async def test_a_request_that_was_cancelled_is_no_longer_in_flight(
    settings: ChassisSettings, route: str, status: int
) -> None:
    counter = requests("GET", f"/items/{{item_id}}/{route}", status)
    async with counting(settings) as service:
        before = await service.read()
        request = asyncio.create_task(ask(service.app, "GET", f"/items/7/{route}"))
        await service.wait_for(lambda _: service.entered == 1)
        request.cancel()
        await asyncio.wait([request])
        after = await service.read()

    assert request.cancelled()
    assert after["http_requests_in_flight"] == 1
    assert rise(before, after, [counter]) == [1]


async def test_a_client_that_went_away_is_no_longer_in_flight(settings: ChassisSettings) -> None:
    gone = asyncio.Event()
    async with counting(settings) as service:
        request = asyncio.create_task(ask(service.app, "GET", "/items/7/parts", gone))
        await service.wait_for(lambda _: service.entered == 1)
        gone.set()
        async with asyncio.timeout(60):
            await request
        after = await service.read()

    assert after["http_requests_in_flight"] == 1


async def test_the_pools_are_seen_while_they_are_exhausted(settings: ChassisSettings) -> None:
    names = [f'database_pool_{what}{{pool="read"}}' for what in ("size", "checked_out", "waiting")]

    def pool(now: Samples) -> list[float]:
        return [now[name] for name in names]

    changes = {"database_read_pool_size": 2, "database_pool_timeout": 60}
    async with counting(settings, **changes) as service, asyncio.TaskGroup() as tasks:
        assert pool(await service.read()) == [2, 0, 0]
        for number in range(5):
            tasks.create_task(ask(service.app, "GET", f"/items/{number}/hold"))
        during = await service.wait_for(lambda now: pool(now)[1:] == [2, 3])
        assert pool(during) == [2, 2, 3]
        assert during['database_pool_waiting{pool="write"}'] == 0
        service.released.set()
        await service.wait_for(lambda now: pool(now) == [2, 0, 0])


async def test_statements_are_counted_and_timed(settings: ChassisSettings) -> None:
    names = ["database_statements_total", "database_seconds_total"]
    async with counting(settings) as service:
        # The first connection to PostgreSQL asks for its version and more.
        await service.client.get("/items/7")
        before = await service.read()
        await service.client.get("/items/7")
        statements, seconds = rise(before, await service.read(), names)

    assert statements == 2
    assert 0 < seconds < 60


async def test_metrics_are_no_part_of_the_api(settings: ChassisSettings) -> None:
    async with counting(settings) as service:
        document = (await service.client.get("/openapi.json")).json()
        page = await service.client.get("/metrics")

    assert "/items/{item_id}" in document["paths"]
    assert "/metrics" not in document["paths"]
    assert page.headers["content-type"].startswith("text/plain")


async def test_metrics_can_have_another_path_and_are_given_to_any_host(
    settings: ChassisSettings,
) -> None:
    changes = {"metrics_path": "/internal/metrics", "http_allowed_hosts": "a.example.com"}
    async with counting(settings, **changes) as service:
        statuses = [
            (await service.client.get(path)).status_code
            for path in ("/internal/metrics", "/metrics", "/items/7")
        ]

    assert statuses == [200, 400, 400]


async def test_metrics_can_have_a_port_of_their_own(settings: ChassisSettings) -> None:
    port = free_port()
    async with AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as scraper:
        async with counting(settings, metrics_port=port) as service:
            await service.client.get("/items/7")
            found = samples((await scraper.get("/metrics")).text)
            assert (await service.client.get("/metrics")).status_code == 404
        with pytest.raises(ConnectError):
            await scraper.get("/metrics")

    assert found[requests("GET", "/items/{item_id}", 200)] >= 1
    assert found["http_requests_in_flight"] == 0
    readers = {"sqlite": 2, "postgres": 10}[settings.database_target.backend]
    assert found['database_pool_size{pool="read"}'] == readers


async def test_there_are_none_unless_they_are_switched_on(settings: ChassisSettings) -> None:
    async with started(create_stock(settings)) as client:
        assert (await client.get("/metrics")).status_code == 404
