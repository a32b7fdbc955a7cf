"""The application's lifespan, its state, and the `on_event` handlers beside it, each run once."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from chassis_stock import create_stock, started
from fastapi import APIRouter, FastAPI, Request
from sqlalchemy import text

from chassis import ChassisSettings
from chassis.db import session_scope

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


async def test_handlers_of_the_application_and_of_its_routers_run_once(
    settings: ChassisSettings,
) -> None:
    ran: list[str] = []
    early = APIRouter(on_startup=[lambda: ran.append("early")])
    late = APIRouter()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ran.append("lifespan")
        yield
        ran.append("end of lifespan")

    app = create_stock(settings, early, APIRouter(lifespan=lifespan))

    @late.on_event("startup")
    async def start_late() -> None:
        ran.append("late")

    app.include_router(late)

    @app.on_event("startup")
    async def start() -> None:
        async with session_scope(app.state.sessions.read):
            ran.append("start")

    @app.on_event("shutdown")
    def stop() -> None:
        ran.append("stop")

    app.router.add_event_handler("startup", lambda: ran.append("by the router"))

    async with started(app) as client:
        assert sorted(ran) == ["by the router", "early", "late", "lifespan", "start"]
        assert (await client.get("/livez")).status_code == 200
        ran.clear()
    assert ran == ["end of lifespan", "stop"]


async def test_a_handler_that_fails_stops_the_start(settings: ChassisSettings) -> None:
    app = create_stock(settings)

    @app.on_event("startup")
    def fail() -> None:
        raise LookupError("no cache")

    with pytest.raises(LookupError, match="no cache"):
        async with started(app):
            pass


async def test_a_lifespan_has_the_sessions_and_ends_before_them(settings: ChassisSettings) -> None:
    ran: list[object] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for part in ("begin", "end"):
            async with session_scope(app.state.sessions.read) as session:
                ran.append((part, await session.scalar(text("SELECT 1"))))
            if part == "begin":
                yield

    @asynccontextmanager
    async def of_a_router(app: FastAPI) -> AsyncIterator[None]:
        ran.append("router")
        yield
        ran.append("end of router")

    app = create_stock(settings, APIRouter(lifespan=of_a_router), lifespan=lifespan)
    async with started(app):
        assert ran == [("begin", 1), "router"]
    assert ran[2:] == ["end of router", ("end", 1)]


async def test_what_a_lifespan_yields_is_the_state_of_each_request(
    settings: ChassisSettings,
) -> None:
    router, mounted = APIRouter(), FastAPI()

    @router.get("/state")
    async def read_state(request: Request) -> list[str]:
        request.state.mark = "of one request"
        return [request.state.client, request.state.cache]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"client": "a client"}

    @asynccontextmanager
    async def of_a_router(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"cache": "a cache"}

    mounted.include_router(router)
    app = create_stock(settings, router, APIRouter(lifespan=of_a_router), lifespan=lifespan)
    app.mount("/mounted", mounted)
    async with started(app) as client:
        for path in ("/state", "/mounted/state"):
            assert (await client.get(path)).json() == ["a client", "a cache"]


async def test_a_lifespan_takes_every_form_that_fastapi_takes(settings: ChassisSettings) -> None:
    ran: list[str] = []

    async def unmarked(app: FastAPI) -> AsyncIterator[None]:
        ran.append("begin")
        yield
        ran.append("end")

    def blocking(app: FastAPI) -> Iterator[None]:
        ran.append("begin")
        yield
        ran.append("end")

    for form in (unmarked, blocking):
        async with started(create_stock(settings, lifespan=form)):
            assert ran == ["begin"]
        assert ran == ["begin", "end"]
        ran.clear()


async def test_a_lifespan_that_is_none_is_refused(settings: ChassisSettings) -> None:
    async def forgotten(app: FastAPI) -> None: ...

    @asynccontextmanager
    async def wrong(app: FastAPI) -> AsyncIterator[str]:
        yield "client"

    with pytest.raises(TypeError, match=r"create_app\(lifespan=…\): write it with @asynccontext"):
        create_stock(settings, lifespan=forgotten)
    app = create_stock(settings, lifespan=wrong)
    with pytest.raises(TypeError, match=r"create_app\(lifespan=…\): it yields str; yield nothing"):
        async with started(app):
            pass
