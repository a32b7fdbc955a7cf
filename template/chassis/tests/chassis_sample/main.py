"""The sample's application."""

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request

from chassis import ChassisSettings, create_app

logger = logging.getLogger(__name__)


class Settings(ChassisSettings):
    """One setting of the service's own."""

    greeting: str = "hello"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Leave a mark in the log."""
    yield
    logger.info("the lifespan has ended")


router = APIRouter(lifespan=lifespan)


@router.get("/process")
async def process(request: Request) -> dict[str, object]:
    """Tell what only the process itself knows."""
    settings: Settings = request.app.state.settings
    return {
        "pid": os.getpid(),
        "frozen": gc.get_freeze_count(),
        "client": request.client.host if request.client else None,
        "greeting": settings.greeting,
    }


@router.get("/wait")
async def wait(seconds: float) -> None:
    """Take a while."""
    logger.info("the wait has begun")
    await asyncio.sleep(seconds)
    logger.info("the wait is over")


@router.post("/echo")
async def echo(request: Request) -> int:
    """Read the body."""
    return len(await request.body())


@router.get("/die")
async def die() -> None:
    """End this process as a crash would."""
    os._exit(1)


def create_service(settings: Settings | None = None) -> FastAPI:
    """Build the application."""
    return create_app(settings or Settings(), package=__name__, routers=[router])


def create_broken_service() -> FastAPI:
    """Have a bug."""
    raise RuntimeError("a bug")


def create_broken_service_of_wrong_type() -> FastAPI:
    """Have a bug of a kind that uvicorn takes for a wrong factory."""
    raise TypeError("a bug")
