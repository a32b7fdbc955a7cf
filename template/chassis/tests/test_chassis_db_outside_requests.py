"""Sessions outside of requests: DbSessions, open_sessions, and the routes that can't hold one."""

import asyncio
import gc
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated
from unittest.mock import Mock

import pytest
from chassis_stock import (
    Item,
    changed,
    checked_out,
    create_stock,
    create_tables,
    engines,
    opened,
    started,
    threads_ended,
)
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Mount
from starlette.types import Message

from chassis import ChassisSettings
from chassis.commands.server_middleware import ServerMiddleware
from chassis.db import (
    DatabaseUnavailableError,
    DbReadSession,
    DbSession,
    DbSessions,
    ReadOnlySessionError,
    SessionFactory,
    Sessions,
    get_db_read_session,
    get_db_session,
    open_sessions,
    run_transaction,
    session_scope,
)
from chassis.db.errors import SessionPlanError

COUNT = select(func.count(Item.id))


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings)
    return settings


async def add_item(session: AsyncSession) -> None:
    session.add(Item())


async def count_items(factory: SessionFactory) -> int:
    async with session_scope(factory) as session:
        return await session.scalar(COUNT) or 0


async def talk(app: FastAPI, path: str, *messages: str) -> list[str | None]:
    """Open a websocket, send messages, and return what it sends before it is closed."""
    received: list[Message] = [{"type": "websocket.connect"}]
    received += [{"type": "websocket.receive", "text": text} for text in messages]
    received.append({"type": "websocket.disconnect", "code": 1000})
    sent: list[str | None] = []

    async def receive() -> Message:
        assert checked_out(*engines(app)) == 0
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message.get("text"))

    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent[1:]


class TestOpenSessions:
    """A script has both factories, and leaves nothing open."""

    async def test_it_writes_and_reads(self, settings: ChassisSettings) -> None:
        async with threads_ended(), open_sessions(settings) as sessions:
            await run_transaction(sessions.write, add_item)
            assert await count_items(sessions.read) == 1
            async with session_scope(sessions.read) as session:
                await add_item(session)
                with pytest.raises(ReadOnlySessionError):
                    await session.flush()
            bound = [factory.kw["bind"] for factory in (sessions.write, sessions.read)]
            assert [opened(engine) for engine in bound] == [1, 1]
        assert [opened(engine) for engine in bound] == [0, 0]

    async def test_an_error_leaves_nothing_open_either(self, settings: ChassisSettings) -> None:
        async def fail() -> None:
            async with open_sessions(settings) as sessions:
                seen.append(sessions)
                await count_items(sessions.write)
                raise LookupError

        seen: list[Sessions] = []
        async with threads_ended():
            with pytest.raises(LookupError):
                await fail()
        assert opened(seen[0].write.kw["bind"]) == 0


async def test_a_handler_has_the_factories_of_the_service(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.get("/")
    async def compare(sessions: DbSessions) -> bool:
        return sessions is app.state.sessions

    inner = FastAPI()
    inner.include_router(router)
    app = create_stock(settings, router)
    app.mount("/inner", inner)
    async with started(app) as client:
        assert (await client.get("/")).json() is True
        assert (await client.get("/inner/")).json() is True


async def test_a_background_task_writes_after_the_answer(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.post("/")
    async def add_later(session: DbSession, sessions: DbSessions, tasks: BackgroundTasks) -> int:
        tasks.add_task(run_transaction, sessions.write, add_item)
        return await session.scalar(COUNT) or 0

    app = create_stock(settings, router)
    async with started(app) as client:
        assert (await client.post("/")).json() == 0
        assert await count_items(app.state.sessions.read) == 1


async def test_a_handler_that_yields_opens_a_session_of_its_own(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.get("/")
    async def export(sessions: DbSessions) -> AsyncIterable[int]:
        async with session_scope(sessions.read) as session:
            numbers = select(Item.id).order_by(Item.id).execution_options(yield_per=1)
            async for number in await session.stream_scalars(numbers):
                yield number

    app = create_stock(settings, router)
    async with started(app) as client:
        for _ in range(3):
            await run_transaction(app.state.sessions.write, add_item)
        assert (await client.get("/")).text == "1\n2\n3\n"
        assert checked_out(*engines(app)) == 0


NUMBERS = select(Item.id).order_by(Item.id).execution_options(yield_per=1)
streams = APIRouter()


async def read_numbers(factory: SessionFactory) -> AsyncIterator[str]:
    async with session_scope(factory) as session:
        async for number in await session.stream_scalars(NUMBERS):
            yield f"{number}"


@streams.get("/handler")
async def yield_numbers(sessions: DbSessions) -> AsyncIterable[str]:
    async with session_scope(sessions.read) as session:
        async for number in await session.stream_scalars(NUMBERS):
            yield f"{number}"


@streams.get("/response")
async def respond_with_numbers(sessions: DbSessions) -> StreamingResponse:
    return StreamingResponse(read_numbers(sessions.read))


@streams.get("/writing-response")
async def respond_from_a_write_session(sessions: DbSessions) -> StreamingResponse:
    return StreamingResponse(read_numbers(sessions.write))


@streams.get("/events", response_class=EventSourceResponse)
async def yield_events(sessions: DbSessions) -> AsyncIterable[str]:
    async for number in read_numbers(sessions.read):
        yield number


@pytest.mark.parametrize("path", ["/handler", "/response", "/writing-response", "/events"])
@pytest.mark.parametrize("fails", [False, True], ids=["disconnected", "sending fails"])
async def test_a_client_that_leaves_a_stream_leaves_no_session_open(
    settings: ChassisSettings, path: str, fails: bool
) -> None:
    reading = asyncio.Event()

    async def receive() -> Message:
        await reading.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body"):
            assert checked_out(*engines(app)) == 1
            if fails:
                raise OSError
            reading.set()
            await asyncio.sleep(10)

    app = create_stock(settings, streams)
    version = {"spec_version": "2.4" if fails else "2.3"}
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    async with started(app):
        for _ in range(3):
            await run_transaction(app.state.sessions.write, add_item)
        answer = app({**scope, "scheme": "http", "asgi": version}, receive, send)
        with suppress(ClientDisconnect, OSError, RuntimeError):
            await asyncio.wait_for(answer, 5)
        assert checked_out(*engines(app)) == 0
        await run_transaction(app.state.sessions.write, add_item)
        # The generators end now, with sessions that are closed.
        gc.collect()
        await asyncio.sleep(0.01)
        assert checked_out(*engines(app)) == 0


async def test_a_task_that_outlives_its_request_keeps_its_session(
    settings: ChassisSettings,
) -> None:
    router, tasks = APIRouter(), list[asyncio.Task[int]]()
    answered = asyncio.Event()

    @router.get("/")
    async def go_on(sessions: DbSessions) -> None:
        async def count_twice() -> int:
            async with session_scope(sessions.read) as session:
                before = await session.scalar(COUNT) or 0
                await answered.wait()
                return before + (await session.scalar(COUNT) or 0)

        tasks.append(asyncio.create_task(count_twice()))
        await asyncio.sleep(0.05)

    async with started(create_stock(settings, router)) as client:
        assert (await client.get("/")).status_code == 200
        answered.set()
        assert await tasks[0] == 0


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DatabaseUnavailableError("the server is away"), 1013, "WEBSOCKET /feed: 503: "),
        (HTTPException(403), 1008, None),
    ],
)
async def test_an_error_closes_a_websocket_that_was_accepted(
    settings: ChassisSettings,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: int,
    line: str | None,
) -> None:
    router = APIRouter()
    sent: list[Message] = []

    @router.websocket("/feed")
    async def fail(websocket: WebSocket) -> None:
        await websocket.accept()
        raise error

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = create_stock(settings, router)
    async with started(app):
        scope = {"type": "websocket", "path": "/feed", "query_string": b"", "headers": []}
        await app(scope, receive, send)

    assert [one["type"] for one in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == code
    warnings = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert [one.startswith(line) for one in warnings] == [True] if line else warnings == []


async def sends(websocket: WebSocket) -> None:
    while True:
        await websocket.send_text("now")


async def receives(websocket: WebSocket) -> None:
    await websocket.receive_text()


async def sends_beside_work(websocket: WebSocket) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sends(websocket))
        tasks.create_task(asyncio.sleep(60))


@pytest.mark.parametrize("work", [sends, receives, sends_beside_work])
async def test_a_client_that_leaves_a_websocket_is_no_error(
    settings: ChassisSettings, work: Callable[[WebSocket], Awaitable[None]]
) -> None:
    router = APIRouter()
    received: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.disconnect", "code": 1001},
    ]

    @router.websocket("/feed")
    async def serve(websocket: WebSocket) -> None:
        await websocket.accept()
        await work(websocket)

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            # What servers raise.
            raise ConnectionResetError

    app = create_stock(settings, router)
    async with started(app):
        scope = {"type": "websocket", "path": "/feed", "query_string": b"", "headers": []}
        await app(scope, receive, send)


async def test_a_stream_of_events_whose_database_goes_away_is_one_line(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter()

    @router.get("/feed", response_class=EventSourceResponse)
    async def feed() -> AsyncIterable[str]:
        yield "first"
        raise DatabaseUnavailableError("the server is away")

    app = create_stock(settings, router)
    served = ServerMiddleware(
        app, is_draining=bool, wait_for_tasks=Mock(), report_failed_start=Mock()
    )
    transport = ASGITransport(served, raise_app_exceptions=False)
    async with started(app), AsyncClient(transport=transport, base_url="http://test") as client:
        await client.get("/feed")

    [line] = [one for one in caplog.records if one.name == "chassis.http.responses"]
    assert line.levelname == "WARNING"
    assert line.message == "GET /feed: its answer was cut off: the server is away"


async def test_a_websocket_holds_no_session_between_messages(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.websocket("/")
    async def add_each(websocket: WebSocket, sessions: DbSessions) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            await run_transaction(sessions.write, add_item)
            await websocket.send_json(await count_items(sessions.read))

    app = create_stock(settings, router)
    async with started(app):
        assert await talk(app, "/", "once", "again") == ["1", "2"]


async def find_user(session: DbReadSession) -> str:
    """Look up who asks."""
    return "Ada"


async def may_write(user: Annotated[str, Depends(find_user)]) -> None:
    """Take no session by itself."""


class Searches:
    """What takes a session is the method of an object."""

    async def __call__(self, session: DbReadSession) -> None: ...


async def writes(websocket: WebSocket, session: DbSession) -> None: ...
async def reads(websocket: WebSocket, session: DbReadSession) -> None: ...
async def asks(websocket: WebSocket, _: Annotated[None, Depends(may_write)]) -> None: ...
async def searches(websocket: WebSocket, _: Annotated[None, Depends(Searches())]) -> None: ...
async def waits(websocket: WebSocket) -> None: ...


def with_route(
    handler: Callable[..., object] = waits, *, of_route: object = None, of_router: object = None
) -> APIRouter:
    """Build a router with a websocket, and what it or its router depends on."""
    depends = [[Depends(each)] if each else [] for each in (of_route, of_router)]  # type: ignore[arg-type]
    router = APIRouter(prefix="/chat", dependencies=depends[1])
    router.add_api_websocket_route("/room", handler, dependencies=depends[0])
    return router


@pytest.mark.parametrize(
    ("router", "taker"),
    [
        (with_route(writes), "the websocket /chat/room"),
        (with_route(reads), "the websocket /chat/room"),
        (with_route(asks), "find_user, a dependency of the websocket /chat/room,"),
        (with_route(searches), "<.*Searches object at .*>, a dependency of the websocket .*,"),
        (with_route(of_route=may_write), "find_user, a dependency of the websocket /chat/room,"),
        (with_route(of_route=get_db_session), "the websocket /chat/room"),
        (with_route(of_router=get_db_read_session), "the websocket /chat/room"),
    ],
)
@pytest.mark.parametrize("place", ["routers", "included", "mounted", "mounted in Starlette"])
async def test_a_websocket_that_takes_a_session_stops_the_start(
    settings: ChassisSettings, router: APIRouter, taker: str, place: str
) -> None:
    app = place_router(settings, router, place)
    advice = f"^{taker} takes a session, .* take DbSessions, and open session_scope"
    with pytest.raises(SessionPlanError, match=advice):
        async with started(app):
            pass


def place_router(settings: ChassisSettings, router: APIRouter, place: str) -> FastAPI:
    """Build an application with a router in one of the places where routes are."""
    if place == "routers":
        return create_stock(settings, router)
    if place == "included":
        outer = APIRouter()
        outer.include_router(router)
        return create_stock(settings, outer)
    app, inner = create_stock(settings), FastAPI()
    inner.include_router(router)
    app.mount("/app", inner if place == "mounted" else Starlette(routes=[Mount("/in", inner)]))
    return app


async def test_a_dependency_of_all_routes_is_found_for_a_websocket(
    settings: ChassisSettings,
) -> None:
    outer = APIRouter(dependencies=[Depends(find_user)])
    outer.include_router(with_route())
    with pytest.raises(SessionPlanError, match="find_user, a dependency of the websocket"):
        async with started(create_stock(settings, outer)):
            pass


async def test_a_session_that_only_an_override_asks_for_is_refused_when_it_is_opened(
    settings: ChassisSettings,
) -> None:
    app = create_stock(settings, with_route(of_route=find_nobody))
    app.dependency_overrides[find_nobody] = find_user
    async with started(app):
        with pytest.raises(SessionPlanError, match=r"^the websocket of waits takes .*DbSessions"):
            await talk(app, "/chat/room")
        assert checked_out(*engines(app)) == 0


async def find_nobody() -> None:
    """Be replaced in a test."""


async def yields(session: DbReadSession) -> AsyncIterable[int]:
    """Go on when the session is closed."""
    yield 1


async def test_a_handler_that_yields_and_takes_a_session_stops_the_start(
    settings: ChassisSettings,
) -> None:
    router = APIRouter()
    router.add_api_route("/export", yields)
    with pytest.raises(SessionPlanError, match=r"^/export would go on .* take DbSessions"):
        async with started(create_stock(settings, router)):
            pass


async def test_a_dependency_of_one_that_yields_may_take_a_session(
    settings: ChassisSettings,
) -> None:
    router = APIRouter()

    @router.get("/", dependencies=[Depends(find_user)])
    async def count() -> AsyncIterable[int]:
        yield 1

    app = create_stock(changed(settings, database_pool_size=1), router)
    async with started(app) as client:
        assert (await client.get("/")).text == "1\n"
