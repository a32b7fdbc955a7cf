"""Types of request fields: what a handler gets, and what a client is told."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from chassis_stock import Item, create_stock, create_tables, started
from fastapi import APIRouter, Query
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy import select

from chassis import ChassisSettings
from chassis.db import DbReadSession, DbSession
from chassis.fields import Moment

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
