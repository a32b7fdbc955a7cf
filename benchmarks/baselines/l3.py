"""L3: FastAPI on an asyncpg pool, no ORM: the limit of the framework itself."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

CONNECTIONS = 16
COLUMNS = "id, name, quantity, price, created_at"
ONE = f"SELECT {COLUMNS} FROM bench_items WHERE id = $1"
LIST = f"SELECT {COLUMNS} FROM bench_items ORDER BY id LIMIT 50"
INSERT = f"INSERT INTO bench_items (name, quantity, price) VALUES ($1, $2, $3) RETURNING {COLUMNS}"


class NewItem(BaseModel):
    name: str
    quantity: int
    price: float


class ItemRead(NewItem):
    id: int
    created_at: datetime


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    dsn = os.environ["BENCH_DSN"]
    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        app.state.pool = pool
        yield


async def get_connection(request: Request) -> AsyncIterator[Any]:
    async with request.app.state.pool.acquire() as connection:
        yield connection


Connection = Annotated[Any, Depends(get_connection)]
app = FastAPI(lifespan=lifespan)


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/items", response_model=list[ItemRead])
async def list_items(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(LIST)]


@app.get("/items/{item_id}", response_model=ItemRead)
async def read_item(item_id: int, connection: Connection) -> dict[str, Any]:
    row = await connection.fetchrow(ONE, item_id)
    if row is None:
        raise HTTPException(404)
    return dict(row)


@app.post("/items", response_model=ItemRead, status_code=201)
async def create_item(new: NewItem, connection: Connection) -> dict[str, Any]:
    return dict(await connection.fetchrow(INSERT, new.name, new.quantity, new.price))
