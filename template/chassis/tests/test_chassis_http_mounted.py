"""What is mounted in the service has its sessions and settings, and answers as the service does."""

import asyncio
from typing import Annotated

import pytest
from chassis_stock import (
    Item,
    changed,
    checked_out,
    create_stock,
    create_tables,
    engines,
    started,
)
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import PlainTextResponse, Response
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import func, select, update
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from chassis import ChassisSettings
from chassis.db import DbReadSession, DbSession, DbSessions, session_scope
from chassis.http.problems import MEDIA_TYPE

PLACES = ("/app", "/app/inner", "/router", "/plain/app")


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings)
    return settings


async def settings_of(connection: HTTPConnection) -> ChassisSettings:
    settings: ChassisSettings = connection.scope["chassis"].settings
    return settings


async def reading(session: DbReadSession) -> DbReadSession:
    return session


def routes() -> APIRouter:
    router = APIRouter()

    @router.post("/items")
    async def add(session: DbSession, name: str) -> None:
        session.add(Item(name=name))
        await session.commit()

    @router.get("/items")
    async def count(session: DbReadSession, expected: int) -> bool:
        return await session.scalar(select(func.count(Item.id))) == expected

    @router.put("/items")
    async def mix(session: DbReadSession, other: DbSession) -> bool:
        await other.execute(update(Item).values(quantity=Item.quantity + 1))
        await other.commit()
        return session is other

    @router.get("/kinds")
    async def kind(
        request: Request, session: Annotated[DbReadSession, Depends(reading, scope="function")]
    ) -> bool:
        engine = engines(request.scope["chassis"].app)[1]
        return session.bind is engine

    @router.get("/settings")
    async def workers(settings: Annotated[ChassisSettings, Depends(settings_of)]) -> int:
        return settings.server_workers

    @router.get("/gone")
    async def gone() -> None:
        raise HTTPException(410, "It was sold.")

    @router.get("/bug")
    async def bug() -> None:
        raise LookupError("a bug")

    @router.get("/refused-write")
    async def write(session: DbReadSession) -> None:
        await session.execute(update(Item).values(quantity=0))

    @router.get("/closed")
    async def close() -> None:
        raise ShopIsClosedError

    @router.get("/route")
    async def route(request: Request) -> str:
        return str(request.scope["chassis"].name)

    @router.websocket("/count")
    async def count_for_websocket(websocket: WebSocket, sessions: DbSessions) -> None:
        await websocket.accept()
        async with session_scope(sessions.read) as session:
            await websocket.send_json(await session.scalar(select(func.count(Item.id))))
        await websocket.close()

    return router


class ShopIsClosedError(Exception):
    """What the service has a handler for."""


def mounted_app() -> FastAPI:
    app = FastAPI()
    app.include_router(routes())
    return app


def create_building(settings: ChassisSettings) -> FastAPI:
    """Build a service with an application in it, one in that, a router, and a plain mount."""
    app = create_stock(settings, routes())
    outer = mounted_app()
    outer.mount("/inner", mounted_app())
    app.mount("/app", outer)
    app.mount("/router", routes())
    plain = Starlette(routes=[Mount("/app", mounted_app()), Route("/fails", fail)])
    app.mount("/plain", plain)
    app.router.routes.append(Mount("/routes", routes=[Route("/fails", fail)]))
    return app


async def fail(request: Request) -> Response:
    raise LookupError("a bug")


@pytest.mark.parametrize("place", PLACES)
async def test_sessions_and_settings_are_those_of_the_service(
    settings: ChassisSettings, place: str
) -> None:
    app = create_building(changed(settings, server_workers=3))
    async with started(app) as client:
        assert (await client.post(f"{place}/items?name=bolt")).status_code == 200
        assert (await client.get(f"{place}/items?expected=1")).json() is True
        assert (await client.put(f"{place}/items")).json() is True
        assert (await client.get(f"{place}/kinds")).json() is True
        assert (await client.get(f"{place}/settings")).json() == 3
        assert checked_out(*engines(app)) == 0


@pytest.mark.parametrize("place", PLACES)
async def test_its_errors_are_problems(settings: ChassisSettings, place: str) -> None:
    async with started(create_building(settings)) as client:
        await client.post(f"{place}/items?name=bolt")
        for method, path, status in (
            ("POST", "/items?name=bolt", 409),
            ("GET", "/items?expected=x", 422),
            ("GET", "/gone", 410),
            ("GET", "/bug", 500),
            ("GET", "/nowhere", 404),
            ("DELETE", "/items", 405),
        ):
            answer = await client.request(method, place + path)
            assert answer.status_code == status, path
            assert answer.headers["content-type"] == MEDIA_TYPE
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
        if place != "/router":
            # A router that is mounted as it is names the methods of its first route.
            assert answer.headers["allow"] == "GET, POST, PUT"


@pytest.mark.parametrize("path", ["/plain/fails", "/routes/fails"])
async def test_so_are_those_of_a_starlette_route(settings: ChassisSettings, path: str) -> None:
    async with started(create_building(settings)) as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (500, MEDIA_TYPE)


async def test_a_full_pool_is_a_503(settings: ChassisSettings) -> None:
    app = create_building(changed(settings, database_pool_size=1, database_pool_timeout=0.05))
    async with started(app) as client, engines(app)[0].connect():
        answer = await client.post("/app/inner/items?name=bolt")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_handler_of_its_own_stays(settings: ChassisSettings) -> None:
    app = create_building(settings)
    own = mounted_app()

    @own.exception_handler(HTTPException)
    async def answer_in_plain_text(request: Request, error: Exception) -> Response:
        return PlainTextResponse("its own")

    app.mount("/own", own)
    async with started(app) as client:
        assert (await client.get("/own/gone")).text == "its own"


@pytest.mark.parametrize("place", PLACES)
async def test_the_services_handlers_are_for_its_errors_too(
    settings: ChassisSettings, place: str
) -> None:
    app = create_building(settings)

    @app.exception_handler(ShopIsClosedError)
    async def say_closed(request: Request, error: Exception) -> Response:
        return PlainTextResponse("closed", 409)

    async with started(app) as client:
        answer = await client.get(f"{place}/closed")
    assert (answer.status_code, answer.text) == (409, "closed")


@pytest.mark.parametrize("place", PLACES)
async def test_a_bug_in_a_query_is_seen_as_what_it_is(
    settings: ChassisSettings, place: str
) -> None:
    app = create_building(settings)
    async with app.router.lifespan_context(app):
        transport = ASGITransport(app)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            with pytest.raises(Exception, match="a read session can't write: take DbSession"):
                await client.get(f"{place}/refused-write")


async def test_another_framework_may_be_mounted(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = "of another framework"
        await PlainTextResponse("its own")(scope, receive, send)

    app = create_building(settings)
    app.mount("/other", other)
    async with started(app) as client:
        with caplog.at_level("INFO", logger="chassis.access"):
            assert (await client.get("/other/page")).text == "its own"
    assert "GET (no route) 200" in caplog.messages


@pytest.mark.parametrize("place", PLACES)
async def test_its_routes_are_named_with_the_path_that_leads_there(
    settings: ChassisSettings, place: str
) -> None:
    async with started(create_building(settings)) as client:
        name = (await client.get(f"{place}/route")).json()
    # A router that is mounted is no application: it has nothing that the path could be kept in.
    assert name == f"GET {place.removeprefix('/router')}/route"


async def test_a_websocket_in_it_has_the_services_sessions(settings: ChassisSettings) -> None:
    app, sent = create_building(settings), list[Message]()

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/app/inner/count", "headers": [], "query_string": b""}
    async with started(app):
        await asyncio.wait_for(app(scope, receive, send), 10)
        assert checked_out(*engines(app)) == 0
    assert [message.get("text") for message in sent] == [None, "0", None]
