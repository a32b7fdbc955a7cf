"""L4: FastAPI on SQLAlchemy's async ORM, one session a request: what a careful engineer writes."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, String, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON")


def create_engine() -> AsyncEngine:
    file = os.environ.get("BENCH_SQLITE")
    if file is None:
        url = make_url(os.environ["BENCH_DSN"]).set(drivername="postgresql+asyncpg")
        return create_async_engine(url, pool_size=16, max_overflow=0)
    sqlite = f"sqlite+aiosqlite:///{file}"
    engine = create_async_engine(sqlite, pool_size=5, max_overflow=0, connect_args={"timeout": 10})

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


engine = create_engine()
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "bench_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    quantity: Mapped[int]
    price: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class NewItem(BaseModel):
    name: str
    quantity: int
    price: float


class ItemRead(NewItem):
    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI(lifespan=lifespan)


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/items", response_model=list[ItemRead])
async def list_items(session: Session) -> Sequence[Item]:
    return (await session.scalars(select(Item).order_by(Item.id).limit(50))).all()


@app.get("/items/{item_id}", response_model=ItemRead)
async def read_item(item_id: int, session: Session) -> Item:
    item = (await session.scalars(select(Item).where(Item.id == item_id))).first()
    if item is None:
        raise HTTPException(404)
    return item


@app.post("/items", response_model=ItemRead, status_code=201)
async def create_item(new: NewItem, session: Session) -> Item:
    item = Item(**new.model_dump())
    session.add(item)
    await session.commit()
    return item
