"""What the chassis's own tests keep in a database, and the application that they keep it with."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import (
    CheckConstraint,
    Connection,
    ForeignKey,
    MetaData,
    NullPool,
    create_engine,
    func,
)
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.pool import QueuePool
from starlette.types import Receive, Scope, Send

from chassis import ChassisSettings, create_app
from chassis.db import Base, DatabaseSettings
from chassis.db.migrations.connect import open_connection
from chassis.db.sessions import Sessions


class Item(Base):
    """A thing in stock."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(unique=True)
    quantity: Mapped[int] = mapped_column(
        CheckConstraint("quantity >= 0", name="quantity_not_negative"), default=0
    )
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Part(Base):
    """What a thing is made of."""

    __tablename__ = "part"

    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), index=True)
    item: Mapped[Item] = relationship()


def changed(settings: ChassisSettings, **changes: object) -> ChassisSettings:
    """Give settings that differ in some fields."""
    return ChassisSettings(**(settings.model_dump(exclude_unset=True) | changes))


def create_tables(settings: DatabaseSettings, metadata: MetaData = Base.metadata) -> None:
    """Make the tables of the models above, or of others."""
    with open_connection(settings) as connection:
        metadata.create_all(connection)
        connection.commit()


@contextmanager
def executing(settings: DatabaseSettings) -> Iterator[Connection]:
    """Open a transaction on the database, past the chassis's engines; commit at the end."""
    url, arguments = settings.database_target.migration()
    engine = create_engine(url, connect_args=arguments, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


def create_stock(settings: ChassisSettings, *routers: APIRouter, **options: Any) -> FastAPI:
    """Build an application around some routers."""
    return create_app(settings, package=__name__, routers=routers, **options)


@asynccontextmanager
async def started(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """Start an application; give a client that is answered as a server would answer it."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": {**(state or {})}}, receive, send)

        transport = ASGITransport(with_state if state else app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://testserver") as client:
            yield client


def engines(app: FastAPI) -> tuple[AsyncEngine, AsyncEngine]:
    """Give the write engine and the read engine of a started application."""
    sessions: Sessions = app.state.sessions
    return sessions.write.kw["bind"], sessions.read.kw["bind"]


def checked_out(*engines: AsyncEngine) -> int:
    """Count the connections that are in use."""
    return sum(pool_of(engine).checkedout() for engine in engines)


def opened(engine: AsyncEngine) -> int:
    """Count the connections that are open."""
    return pool_of(engine).checkedin() + pool_of(engine).checkedout()


def pool_of(engine: AsyncEngine) -> QueuePool:
    """Give the pool of an engine."""
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    return pool


@asynccontextmanager
async def threads_ended() -> AsyncIterator[None]:
    """Wait until no thread is left of those that were started inside.

    Each SQLite connection has one, which ends a moment after the connection was closed.
    """
    # Not their number: one that an earlier test left may end meanwhile.
    before = {*threading.enumerate()}
    yield
    for _ in range(500):
        if before.issuperset(threading.enumerate()):
            return
        await asyncio.sleep(0.01)
    pytest.fail("there are threads left")


def register_dialect() -> None:
    """Make a dialect that the chassis does not know: SQLite's, by the name of `depot`."""
    registry.register("depot", "sqlalchemy.dialects.sqlite.pysqlite", "dialect")
    registry.register("depot.aiosqlite", "sqlalchemy.dialects.sqlite.aiosqlite", "dialect")


def only_on(backend: str, settings: DatabaseSettings) -> None:
    """Skip a test of what only one backend has."""
    if settings.database_target.backend != backend:
        pytest.skip(f"this is about {backend}")
