"""The watch on the event loop: it warns while requests wait, and of no start that takes time."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from chassis_stock import started
from fastapi import FastAPI

from chassis import ChassisSettings, create_app
from chassis.observe import loop_watch


@pytest.mark.parametrize("place", ["start", "request", "end"])
async def test_only_what_requests_wait_for_is_a_warning(
    place: str,
    settings: ChassisSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(loop_watch, "BLOCKED_SECONDS", 0.2)

    def block_in(here: str) -> None:
        if here == place:
            time.sleep(0.6)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        block_in("start")
        yield
        block_in("end")

    app = create_app(settings, package="sample", lifespan=lifespan)

    @app.get("/block")
    async def block() -> None:
        block_in("request")

    async with started(app) as client:
        assert (await client.get("/block")).status_code == 200
    assert ("the event loop is blocked" in caplog.text) == (place == "request")
