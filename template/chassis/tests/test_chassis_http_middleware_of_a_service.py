"""A service's own middleware: what it surrounds is answered as without it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from chassis_stock import Item, create_stock, create_tables, started, threads_ended
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.middleware.gzip import GZipMiddleware
from pydantic import BaseModel
from sqlalchemy import text
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from chassis import ChassisSettings
from chassis.db import session_scope

pytestmark = pytest.mark.anyio

LIMIT = 1000


@pytest.fixture(autouse=True)
def _tables(settings: ChassisSettings) -> None:
    create_tables(settings)


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
@pytest.mark.parametrize("after", [0, 3])
async def test_an_answer_that_broke_never_ends_as_if_it_were_complete(
    settings: ChassisSettings, kind: str, path: str, after: int
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
        "query_string": b"after=%d" % after,
        "headers": [(b"host", b"testserver"), (b"accept-encoding", b"gzip")],
        "scheme": "http",
        "http_version": "1.1",
        "server": ("testserver", 80),
    }
    async with threads_ended(), started(app):
        with pytest.raises(RuntimeError, match="already started"):
            await app(scope, receive, send)
    cut = sent[-1].get("more_body", True)
    # With gzip the answer has not begun before its first line.
    assert cut or (sent[0]["status"], after) == (500, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("headers", [{}, {"Read": "first"}])
@pytest.mark.parametrize("path", ["/raw", "/json"])
async def test_a_body_in_chunks_that_is_too_large_is_a_413(
    settings: ChassisSettings, kind: str, headers: dict[str, str], path: str
) -> None:
    limited = settings.model_copy(update={"http_max_body_bytes": LIMIT})
    app = create_stock(limited, routes())
    surround(app, kind)

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"text": "'
        for _ in range(LIMIT):
            yield b"12345"

    async with started(app) as client:
        headers["Content-Type"] = "application/json"
        response = await client.post(path, content=chunks(), headers=headers)
    assert response.status_code == 413, response.text
    assert response.headers["Connection"] == "close"


async def test_what_a_middleware_raises_for_the_client_is_its_answer(
    settings: ChassisSettings,
) -> None:
    app = create_stock(settings, routes())
    surround(app, "base")
    async with started(app) as client:
        response = await client.get("/tasks", headers={"Forbidden": "yes"})
    assert (response.status_code, response.json()["detail"]) == (403, "Not you.")
    assert response.headers["X-Reason"] == "none"


async def test_what_goes_wrong_in_a_task_group_has_its_own_answer(
    settings: ChassisSettings,
) -> None:
    async with started(create_stock(settings, routes())) as client:
        statuses = [(await client.get("/tasks")).status_code for _ in range(2)]
        assert statuses == [200, 409]
    async with started(create_stock(settings, routes())) as client:
        assert (await client.get("/tasks")).status_code == 409
