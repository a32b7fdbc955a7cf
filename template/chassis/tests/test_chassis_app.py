"""The application: `on_event` handlers run beside its lifespan, each of them once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from chassis_stock import create_stock, started
from fastapi import APIRouter, FastAPI

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
