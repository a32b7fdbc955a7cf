"""A service's own middleware: what it surrounds is answered as without it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import product
from typing import Any

import pytest
from chassis_stock import Item, create_stock, create_tables, started, threads_ended
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel
from sqlalchemy import text
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import ChassisSettings, ProblemError
from chassis.db import session_scope
from chassis.http.problems import MEDIA_TYPE

pytestmark = pytest.mark.anyio

LIMIT = 1000


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings)
    return settings


class Note(BaseModel):
    text: str


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/breaks")
    async def stream_and_break(request: Request, after: int) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with session_scope(request.scope["chassis"].app.state.sessions.read) as session:
                for _ in range(after):
                    yield "a line\n"
                await session.execute(text("SELECT * FROM nothing"))

        return StreamingResponse(lines())

    @router.post("/raw")
    async def read_raw(request: Request) -> int:
        return len(await request.body())

    @router.post("/json")
    async def read_json(note: Note) -> int:
        return len(note.text)

    @router.get("/tasks")
    async def run_tasks(request: Request) -> None:
        async def add() -> None:
            async with session_scope(request.scope["chassis"].app.state.sessions.write) as session:
                session.add(Item(id=1, name="the same"))
                await session.commit()

        async with asyncio.TaskGroup() as group:
            group.create_task(add())

    return router


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    if "forbidden" in request.headers:
        raise HTTPException(403, "Not you.", {"X-Reason": "none"})
    if "read" in request.headers:
        await request.body()
    response = await call_next(request)
    response.headers["X-Passed"] = "yes"
    return response


def surround(app: FastAPI, kind: str) -> None:
    for one in kind.split():
        if one == "gzip":
            app.add_middleware(GZipMiddleware, minimum_size=1)
        else:
            app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)


KINDS = ("", "base", "base base", "gzip base", "base gzip")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["", "/mounted"])
async def test_an_answer_that_broke_never_ends_as_if_it_were_complete(
    settings: ChassisSettings, kind: str, path: str
) -> None:
    app = create_stock(settings, routes())
    mounted = FastAPI()
    mounted.include_router(routes())
    app.mount("/mounted", mounted)
    surround(mounted if path else app, kind)
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"{path}/breaks",
        "headers": [(b"host", b"testserver"), (b"accept-encoding", b"gzip")],
        "scheme": "http",
        "http_version": "1.1",
        "server": ("testserver", 80),
    }
    async with threads_ended(), started(app):
        for after in (0, 3):
            sent.clear()
            with pytest.raises(RuntimeError, match="already started"):
                await app(scope | {"query_string": b"after=%d" % after}, receive, send)
            cut = sent[-1].get("more_body", True)
            # With gzip the answer has not begun before its first line.
            assert cut or (sent[0]["status"], after) == (500, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_in_chunks_that_is_too_large_is_a_413(
    settings: ChassisSettings, kind: str
) -> None:
    limited = settings.model_copy(update={"http_max_body_bytes": LIMIT})
    app = create_stock(limited, routes())
    surround(app, kind)

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"text": "'
        for _ in range(LIMIT):
            yield b"12345"

    json = {"Content-Type": "application/json"}
    async with started(app) as client:
        for headers, path in product((json, json | {"Read": "first"}), ("/raw", "/json")):
            response = await client.post(path, content=chunks(), headers=headers)
            assert response.status_code == 413, (path, headers, response.text)
            assert response.headers["Connection"] == "close"


class Refuses:
    """A middleware of the service's own, which does what a header says."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        if (early := request.headers.get("early")) is not None:
            await self.refuse(early, request, receive, send)
            return
        await self.app(scope, receive, send)

    async def refuse(self, how: str, request: HTTPConnection, receive: Receive, send: Send) -> None:
        match how:
            case "answer":
                await PlainTextResponse("no", 401)(request.scope, receive, send)
            case "http":
                raise HTTPException(403, "Not you.", {"X-Reason": "none"})
            case "problem":
                raise ProblemError(402, "Buy more.", left=0)
            case "own":
                raise OwnError
            case "database":
                async with session_scope(request.app.state.sessions.write) as session:
                    session.add(Item(id=1, name="the same"))
                    await session.commit()
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.refuse("http", request, receive, send))
            case "bug":
                raise LookupError("a bug")


class OwnError(Exception):
    """What a handler of the service's own answers."""


async def answer_own_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse("its own", 418)


def refusing(settings: ChassisSettings) -> FastAPI:
    app = create_stock(settings, routes(), exception_handlers={OwnError: answer_own_error})
    app.add_middleware(Refuses)
    return app


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("http", 403, "Not you."),
        ("problem", 402, '"left":0'),
        ("own", 418, "its own"),
        ("database", 409, "conflicts"),
        ("group", 403, "Not you."),
    ],
)
async def test_what_a_middleware_raises_is_answered_as_what_a_handler_raises(
    settings: ChassisSettings, how: str, status: int, text: str
) -> None:
    app = refusing(settings)
    async with app.router.lifespan_context(app):
        async with session_scope(app.state.sessions.write) as session:
            session.add(Item(id=1, name="the same"))
            await session.commit()
        # Nothing reaches the server: it would log a traceback.
        async with AsyncClient(transport=ASGITransport(app), base_url="http://t") as client:
            answer = await client.get("/raw", headers={"Early": how})
    assert answer.status_code == status
    assert text in answer.text
    if how in ("http", "group"):
        assert answer.headers["X-Reason"] == "none"
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("kind", ["base", "gzip base", "base base"])
async def test_so_is_what_one_of_starlettes_kind_raises(
    settings: ChassisSettings, kind: str
) -> None:
    app = create_stock(settings, routes())
    surround(app, kind)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://t") as client,
    ):
        answer = await client.get("/tasks", headers={"Forbidden": "yes"})
    assert (answer.status_code, answer.json()["detail"]) == (403, "Not you.")
    assert answer.headers["X-Reason"] == "none"


async def test_a_bug_in_a_middleware_is_a_bug(settings: ChassisSettings) -> None:
    async with started(refusing(settings)) as client:
        answer = await client.get("/raw", headers={"Early": "bug"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, MEDIA_TYPE)


async def test_a_websocket_that_is_refused_is_answered(settings: ChassisSettings) -> None:
    app, sent = refusing(settings), list[Message]()

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"testserver"), (b"early", b"http")]
    scope = {"type": "websocket", "path": "/", "headers": headers, "query_string": b""}
    async with started(app):
        await app(scope, receive, send)
    assert [(message["type"], message.get("status")) for message in sent] == [
        ("websocket.http.response.start", 403),
        ("websocket.http.response.body", None),
    ]


@pytest.mark.parametrize(
    ("path", "method", "route"),
    [
        ("/notes/7/pages/8", "GET", "/notes/{note}/pages/{page}"),
        ("/notes/7", "PUT", "/notes/{note}"),
        ("/mounted/notes/7", "GET", "/mounted/notes/{note}"),
        ("/strict/notes/7", "GET", "/strict/notes/{note}"),
        ("/livez", "GET", "/livez"),
        ("/nowhere/7", "GET", None),
        ("/mounted/nowhere", "GET", None),
        pytest.param(
            f"/notes/7/lines/{'9' * 5000}", "GET", None, id="more-digits-than-python-reads"
        ),
    ],
)
@pytest.mark.parametrize("how", ["answer", "http", "bug"])
async def test_a_refused_request_is_named_by_the_route_that_it_would_have_reached(
    settings: ChassisSettings,
    caplog: pytest.LogCaptureFixture,
    path: str,
    method: str,
    route: str | None,
    how: str,
) -> None:
    notes = APIRouter(prefix="/notes")
    notes.add_api_route("/{note}", endpoint=answer_nothing, methods=["GET", "POST"])
    notes.add_api_route("/{note}/pages/{page:path}", endpoint=answer_nothing)
    notes.add_api_route("/{note}/lines/{line:int}", endpoint=answer_nothing)
    app, mounted, strict = create_stock(settings, notes), FastAPI(), FastAPI()
    for one in (mounted, strict):
        one.include_router(notes)
    app.mount("/mounted", mounted)
    app.mount("/strict", strict)
    (strict if path.startswith("/strict") else app).add_middleware(Refuses)
    with caplog.at_level("INFO", logger="chassis.access"):
        async with started(app) as client:
            answer = await client.request(method, path, headers={"Early": how})
    lines = [record for record in caplog.records if record.name == "chassis.access"]
    assert [record.getMessage() for record in lines] == [
        f"{method} {route or '(no route)'} {answer.status_code}"
    ]


async def answer_nothing() -> None: ...


async def test_a_middleware_inside_of_the_error_handlers_sees_what_a_handler_raises(
    settings: ChassisSettings,
) -> None:
    seen: list[str] = []

    async def note_error(response: Response) -> AsyncIterator[None]:
        response.headers["X-Noted"] = "yes"
        try:
            yield
        except HTTPException as error:
            seen.append(str(error.detail))
            raise

    class NotingRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def note_and_handle(request: Request) -> Response:
                try:
                    answer = await handle(request)
                except RequestValidationError:
                    seen.append("invalid")
                    raise
                answer.headers["X-Route"] = "yes"
                return answer

            return note_and_handle

    router = APIRouter(route_class=NotingRoute, prefix="/items")

    @router.get("/{number}")
    async def read(number: int) -> int:
        if number == 0:
            raise HTTPException(410, "It was sold.")
        return number

    app = create_stock(settings, router, dependencies=[Depends(note_error, scope="function")])
    async with started(app) as client:
        answer = await client.get("/items/1")
        assert (answer.headers["X-Noted"], answer.headers["X-Route"]) == ("yes", "yes")
        assert (await client.get("/items/0")).json()["detail"] == "It was sold."
        assert (await client.get("/items/x")).headers["content-type"] == MEDIA_TYPE
    assert seen == ["It was sold.", "invalid"]


async def test_what_goes_wrong_in_a_task_group_has_its_own_answer(
    settings: ChassisSettings,
) -> None:
    async with started(create_stock(settings, routes())) as client:
        statuses = [(await client.get("/tasks")).status_code for _ in range(2)]
        assert statuses == [200, 409]
    async with started(create_stock(settings, routes())) as client:
        assert (await client.get("/tasks")).status_code == 409
