"""A service with a loop beside its requests, an endless stream, and a worker of two loops.

python -m chassis_beside serve, or work.
"""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter, FastAPI
from fastapi.sse import EventSourceResponse

from chassis import ChassisSettings, create_app, create_cli, pass_settings
from chassis.tasks import ServerStop, Stop, run_until_stopped, supervised

logger = logging.getLogger(__name__)


class Settings(ChassisSettings):
    """How long the loop takes to end what it is at."""

    linger_seconds: float = 0


async def work(settings: ChassisSettings, stop: Stop) -> None:
    """Wait for the stop, then end what was begun."""
    logger.info("the loop has begun")
    while not await stop.wait(3600):
        pass
    logger.info("the loop was told")
    assert isinstance(settings, Settings)
    try:
        await asyncio.sleep(settings.linger_seconds)
        logger.info("the loop has ended")
    finally:
        logger.info("the loop was left")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Have the loop beside the requests."""
    async with supervised(app, "beside", partial(work, app.state.settings)):
        yield
    logger.info("the lifespan has ended")


router = APIRouter()


@router.get("/stream", response_class=EventSourceResponse)
async def stream(stop: ServerStop) -> AsyncIterable[int]:
    """Send numbers until the server stops."""
    number = 0
    while not await stop.wait(0.05):
        yield (number := number + 1)
    yield -1


def create_service(settings: Settings | None = None) -> FastAPI:
    """Build the application."""
    settings = settings or Settings()
    return create_app(settings, package=__name__, routers=[router], lifespan=lifespan)


run = create_cli("chassis_beside:create_service", settings=Settings)


@run.command("loop")
@pass_settings
async def work_alone(settings: Settings) -> None:
    """Run two loops until the stop."""
    other = partial(work, settings.model_copy(update={"linger_seconds": 0}))
    await run_until_stopped(settings, one=partial(work, settings), two=other)
    logger.info("the command has ended")


if __name__ == "__main__":
    run(prog_name="beside")
