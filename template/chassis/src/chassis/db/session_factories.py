"""The factories of sessions, and the two engines under them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from .address.settings import DatabaseSettings
from .engines import READ_ONLY, create_database_engine, create_read_engine
from .session_guards import ReadSession, WriteSession
from .sessions import SessionFactory, Sessions


@asynccontextmanager
async def open_sessions(settings: DatabaseSettings) -> AsyncIterator[Sessions]:
    """Make both engines and their factories; dispose the engines at the end."""
    engine = create_database_engine(settings)
    if settings.database_target.backend == "custom":
        read_engine = engine.execution_options(**{READ_ONLY: True})
    else:
        read_engine = create_read_engine(settings)
    try:
        yield Sessions(
            write=create_session_factory(settings, engine),
            read=create_session_factory(settings, read_engine),
        )
    finally:
        await read_engine.dispose()
        await engine.dispose()


def create_session_factory(
    settings: DatabaseSettings, engine: AsyncEngine, *, autoflush: bool = False
) -> SessionFactory:
    """Build the factory of an engine's sessions; those of a read engine refuse to write."""
    read_only = engine.sync_engine.get_execution_options().get(READ_ONLY, False)
    return async_sessionmaker(
        engine,
        sync_session_class=ReadSession if read_only else WriteSession,
        autoflush=autoflush,
        expire_on_commit=False,
        close_resets_only=False,
    )
