"""The session of a test, which the code under test need not know of."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.address.settings import DatabaseSettings
from ..db.engines import create_database_engine
from ..db.session_factories import create_session_factory
from ..db.sqlite.pragmas import HANDLE
from .statements import is_select


@asynccontextmanager
async def open_test_session(settings: DatabaseSettings) -> AsyncIterator[AsyncSession]:
    """Open a write session on an engine of its own, which holds no lock for what it reads."""
    engine = create_database_engine(settings)
    if engine.dialect.name == "sqlite":
        _begin_with_first_write(engine.sync_engine)
    try:
        async with create_session_factory(settings, engine)() as session:
            yield session
    finally:
        await engine.dispose()


def _begin_with_first_write(engine: Engine) -> None:
    """Begin transactions with what is no SELECT: else a read would lock out whoever writes."""

    @event.listens_for(engine, "before_cursor_execute")
    def begin_before_write(
        connection: Connection, cursor: object, statement: str, *arguments: Any
    ) -> None:
        handle = connection.connection.info[HANDLE]
        handle.begins = not handle.in_transaction and not is_select(statement)
