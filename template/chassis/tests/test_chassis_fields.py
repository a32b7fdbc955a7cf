"""Types of request fields: what a handler gets, and what a client is told."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any

import pytest
from chassis_stock import Item, create_stock, create_tables, started
from fastapi import APIRouter, Query
from httpx2 import AsyncClient
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy import MetaData, Numeric, String, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from chassis import ChassisSettings
from chassis.db import Base, DbReadSession, DbSession
from chassis.fields import (
    MAX_COUNT,
    AfterId,
    Change,
    Count,
    Id,
    Moment,
    Money,
    PageSize,
    Reference,
    text,
)

BILLION = 10**9
MAX_INTEGER = 2**31 - 1
HIGHEST_PRICE = 99_999_999.99
BOUNDS = {"count": (0, BILLION), "change": (-BILLION, BILLION), "reference": (1, MAX_INTEGER)}
NO_NUMBERS: list[object] = [True, False, "1", "", None, [], {}, 1.5, math.nan, math.inf, 10**400]
PRICES: list[tuple[object, str]] = [
    (0, "0.00"),
    (7, "7.00"),
    (-0.0, "0.00"),
    (12.5, "12.50"),
    (0.1 + 0.2, "0.30"),
    (1e-320, "0.00"),
    (1e2, "100.00"),
    (HIGHEST_PRICE, "99999999.99"),
    ("0", "0.00"),
    ("00.5", "0.50"),
    ("12.50", "12.50"),
    ("99999999.99", "99999999.99"),
]
NO_PRICES: list[object] = [
    *(True, False, None, [], {}, math.nan, math.inf, -math.inf),
    *(-1, -0.01, -1e-320, 99_999_999.991, 10**8, 1e8, 10**400),
    *("", "-1", "-0", "+1", " 1", "1\n", ".5", "5.", "1e2", "1_0", "0.001", "100000000"),
    *("NaN", "Infinity", "٣", "1,5", "0x1"),
]
TEXTS = ["a", "abcde", "     ", "\n", "😀😀😀😀😀", "\x01\x7f", "a'%_\\"]
NO_TEXTS: list[object] = [
    "",
    "abcdef",
    "😀😀😀😀😀😀",
    "a\x00b",
    "\x00",
    "\ud800",
    5,
    True,
    None,
    ["a"],
]

MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)
TEN = datetime(2024, 2, 29, 10, tzinfo=UTC)

REFUSED = [
    "2024-02-29T10:00:00",
    "2024-02-29 10:00",
    "2024-02-29",
    "9999-12-31T23:59:59-05:00",
    "0001-01-01T00:00:00+05:00",
    "2024-02-30T10:00:00Z",
    "2024-02-29T10:00:00 05:00",
    "1709200800",
    "1709200800.5",
    "",
    "tomorrow",
    1709200800,
    1709200800.5,
    True,
    None,
    [],
]


@pytest.mark.parametrize(
    "written",
    ["2024-02-29T10:00:00Z", "2024-02-29t15:00+05:00", "2024-02-29 02:00:00.000-0800"],
)
def test_a_moment_is_in_utc(written: str) -> None:
    moment = MOMENT.validate_python(written)
    assert moment == TEN
    assert moment.tzinfo is UTC


def test_a_moment_made_in_python_passes() -> None:
    given = TEN.astimezone(timezone(timedelta(hours=5)))
    assert MOMENT.validate_python(given).tzinfo is UTC


@pytest.mark.parametrize("written", [*REFUSED, date(2024, 2, 29), datetime(2024, 2, 29)], ids=repr)
def test_anything_else_is_no_moment(written: Any) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_python(written)


def test_the_schema_names_a_date_and_time() -> None:
    assert MOMENT.json_schema() == {"type": "string", "format": "date-time"}


class Stored(Base):
    """Keeps the table of these tests apart from those of others."""

    __abstract__ = True
    metadata = MetaData()


class Purchase(Stored):
    __tablename__ = "purchase"

    id: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int]
    change: Mapped[int]
    reference: Mapped[int]
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    name: Mapped[str] = mapped_column(String(5))


class NewPurchase(BaseModel):
    count: Count = 0
    change: Change = 0
    reference: Reference = 1
    price: Money = Decimal(0)
    name: Annotated[str, text(5)] = "a"


PURCHASES = Purchase.metadata.tables["purchase"]


@asynccontextmanager
async def purchasing(settings: ChassisSettings) -> AsyncIterator[AsyncClient]:
    """Start an application that stores each of these types, and finds rows by them."""
    router = APIRouter()

    @router.post("/purchases")
    async def add(new: NewPurchase, session: DbSession) -> dict[str, Any]:
        row = (
            await session.execute(insert(PURCHASES).returning(PURCHASES), new.model_dump())
        ).one()
        await session.commit()
        assert Decimal(row.price).as_tuple().exponent == -2
        return dict(row._mapping)

    @router.get("/purchases/{id}")
    async def find(
        id: Id, session: DbReadSession, after: AfterId = 0, limit: PageSize = 50
    ) -> list[int]:
        statement = select(Purchase.id).where(Purchase.id == id, Purchase.id > after).limit(limit)
        return list(await session.scalars(statement))

    create_tables(settings, Purchase.metadata)
    async with started(create_stock(settings, router)) as client:
        yield client


async def post_purchase(client: AsyncClient, name: str, value: object) -> tuple[int, Any]:
    """Post one field of a purchase; return the status, and the field as it was stored."""
    body = json.dumps({name: value})
    headers = {"content-type": "application/json"}
    response = await client.post("/purchases", content=body, headers=headers)
    if response.status_code == 422:
        (error,) = response.json()["errors"]
        assert error["loc"][:2] == ["body", name]
    return response.status_code, response.json().get(name)


@pytest.mark.parametrize("name", BOUNDS)
async def test_a_whole_number_is_stored_up_to_its_bounds(
    name: str, settings: ChassisSettings
) -> None:
    lowest, highest = BOUNDS[name]
    async with purchasing(settings) as client:
        for number in (lowest, lowest + 1, 5, float(lowest), 5.0, 1e2, float(highest), highest):
            assert await post_purchase(client, name, number) == (200, int(number))
        for wrong in (lowest - 1, highest + 1, float(highest + 1), *NO_NUMBERS):
            assert (await post_purchase(client, name, wrong))[0] == 422, wrong


async def test_money_is_stored_in_cents(settings: ChassisSettings) -> None:
    async with purchasing(settings) as client:
        for given, stored in PRICES:
            assert await post_purchase(client, "price", given) == (200, stored)
        for wrong in NO_PRICES:
            assert (await post_purchase(client, "price", wrong))[0] == 422, wrong


async def test_a_text_is_stored_up_to_its_length(settings: ChassisSettings) -> None:
    async with purchasing(settings) as client:
        for given in TEXTS:
            assert await post_purchase(client, "name", given) == (200, given)
        for wrong in NO_TEXTS:
            assert (await post_purchase(client, "name", wrong))[0] == 422, wrong


async def test_an_id_and_a_page_are_asked_for_up_to_their_bounds(
    settings: ChassisSettings,
) -> None:
    async with purchasing(settings) as client:
        await post_purchase(client, "count", 1)
        for path in ("1", "1?after=0&limit=1", "1?limit=100"):
            assert (await client.get(f"/purchases/{path}")).json() == [1]
        for path in (f"{MAX_INTEGER}", f"1?after={MAX_INTEGER}", "1?after=1"):
            assert (await client.get(f"/purchases/{path}")).json() == []
        for path in (
            *("0", "-1", f"{MAX_INTEGER + 1}", f"{10**30}", "one", "1.5", "true"),
            *("1?after=-1", f"1?after={MAX_INTEGER + 1}", "1?after="),
            *("1?limit=0", "1?limit=101", "1?limit=-1", "1?limit=all"),
        ):
            assert (await client.get(f"/purchases/{path}")).status_code == 422, path


def test_a_count_and_a_change_add_up_within_a_column() -> None:
    assert MAX_COUNT + MAX_COUNT <= MAX_INTEGER
    assert TypeAdapter(Count).validate_python(MAX_COUNT) == BILLION


def test_a_text_may_be_empty_where_it_is_said() -> None:
    assert TypeAdapter(Annotated[str, text(5, min_length=0)]).validate_python("") == ""


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (Id, {"type": "integer", "minimum": 1, "maximum": MAX_INTEGER}),
        (AfterId, {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER}),
        (PageSize, {"type": "integer", "minimum": 1, "maximum": 100}),
        (Reference, {"type": "integer", "minimum": 1, "maximum": MAX_INTEGER}),
        (Count, {"type": "integer", "minimum": 0, "maximum": BILLION}),
        (Change, {"type": "integer", "minimum": -BILLION, "maximum": BILLION}),
        (
            Money,
            {
                "anyOf": [
                    {"type": "number", "minimum": 0, "maximum": HIGHEST_PRICE},
                    {"type": "string", "pattern": r"^[0-9]{1,8}(\.[0-9]{1,2})?$"},
                ]
            },
        ),
        (
            Annotated[str, text(5)],
            {"type": "string", "minLength": 1, "maxLength": 5, "pattern": r"^[^\x00]*$"},
        ),
    ],
)
def test_the_schema_says_what_is_taken(kind: Any, schema: dict[str, Any]) -> None:
    assert TypeAdapter(kind).json_schema() == schema


async def test_a_client_is_told_and_a_column_keeps_it(settings: ChassisSettings) -> None:
    class Due(BaseModel):
        at: Moment

    router = APIRouter()

    @router.post("/due")
    async def add(due: Due, session: DbSession) -> datetime:
        item = Item(created_at=due.at)
        session.add(item)
        await session.commit()
        return item.created_at

    @router.get("/due")
    async def find(at: Annotated[Moment, Query()], session: DbReadSession) -> list[int]:
        statement = select(Item.id).where(Item.created_at == at)
        return list(await session.scalars(statement))

    create_tables(settings)
    async with started(create_stock(settings, router)) as client:
        response = await client.post("/due", json={"at": "2024-02-29T15:00:00+05:00"})
        assert response.json() == "2024-02-29T10:00:00Z"
        found = await client.get("/due", params={"at": "2024-02-29T02:00:00-08:00"})
        assert found.json() == [1]
        for written in REFUSED:
            response = await client.post("/due", json={"at": written})
            assert response.status_code == 422
            (error,) = response.json()["errors"]
            assert error["loc"] == ["body", "at"]
