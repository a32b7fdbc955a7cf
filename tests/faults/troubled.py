"""A service whose handlers do what they should not: each route is one mistake."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from chassis import ChassisSettings, create_app
from chassis.db import DbSession
from fastapi import APIRouter, BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from ledger import Entry, router  # type: ignore[import-not-found]
from sqlalchemy import insert, text

logger = logging.getLogger(__name__)
mistakes = APIRouter()


@mistakes.get("/bug")
async def have_a_bug() -> None:
    """Raise what nobody expects."""
    raise RuntimeError("a bug")


@mistakes.get("/bug-in-background")
async def have_a_bug_in_background(tasks: BackgroundTasks) -> int:
    """Raise it after the answer."""
    tasks.add_task(have_a_bug)
    return 1


@mistakes.get("/bug-in-stream")
async def have_a_bug_in_stream() -> StreamingResponse:
    """Raise it in the middle of the answer."""

    async def parts() -> AsyncIterator[str]:
        yield "a part"
        await have_a_bug()

    return StreamingResponse(parts())


@mistakes.get("/wait/{seconds}")
async def wait(seconds: float) -> int:
    """Take a while."""
    await asyncio.sleep(seconds)
    return 1


@mistakes.get("/stream")
async def stream() -> StreamingResponse:
    """Never end."""

    async def parts() -> AsyncIterator[str]:
        while True:
            yield "a part"
            await asyncio.sleep(0.1)

    return StreamingResponse(parts())


@mistakes.get("/session-in-stream")
async def use_session_in_stream(session: DbSession) -> StreamingResponse:
    """Use the session of the request after it."""

    async def parts() -> AsyncIterator[str]:
        yield "a part"
        yield str(await session.scalar(text("SELECT 1")))

    return StreamingResponse(parts())


@mistakes.get("/session-in-background")
async def use_session_in_background(session: DbSession, tasks: BackgroundTasks) -> int:
    """Use it in a background task."""
    tasks.add_task(session.scalar, text("SELECT 1"))
    return 1


@mistakes.get("/statement-fails/{token}")
async def fail_to_insert(session: DbSession, token: str) -> None:
    """Insert a number twice, by a path with a secret."""
    for _ in token[:2]:
        await session.execute(insert(Entry).values(number=7))


@mistakes.get("/repeat/{text}")
async def repeat(text: str) -> None:
    """Log what a client sent, in a line and in a traceback."""
    logger.warning("asked for %s", text)
    raise LookupError("asked for " + text.replace("\n", " "))


@mistakes.post("/hold/{seconds}")
async def hold(session: DbSession, seconds: float) -> None:
    """Wait for something else within a transaction."""
    await session.execute(text("SELECT 1"))
    await asyncio.sleep(seconds)
    await session.commit()


@mistakes.post("/forget")
async def forget_to_commit(session: DbSession) -> None:
    """Write and not commit."""
    await session.execute(insert(Entry).values(number=8))


@mistakes.get("/block/{seconds}")
async def block(seconds: float) -> None:
    """Stop every request."""
    time.sleep(seconds)


def create_troubled() -> FastAPI:
    """Build the service from its environment, with its mistakes once more in a mounted one."""
    app = create_app(ChassisSettings(), package=__name__, routers=[router, mistakes])
    mounted = FastAPI()
    mounted.include_router(mistakes)
    app.mount("/mounted", mounted)
    return app
