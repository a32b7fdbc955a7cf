"""Rows as dicts: each column by its name, and never one in the place of another."""

import pytest
from sqlalchemy import column, literal, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.db import fetch_dicts

pytestmark = pytest.mark.anyio


async def test_each_row_is_a_dict_by_the_names_of_its_columns(engine: AsyncEngine) -> None:
    rows = union_all(
        select(literal(1).label("id"), literal("a").label("name")),
        select(literal(2), literal("b")),
    )
    async with engine.connect() as connection:
        found = await connection.execute(rows.order_by(column("id")))
        assert fetch_dicts(found) == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        assert fetch_dicts(await connection.execute(text("SELECT 1 AS id WHERE 1 = 0"))) == []


async def test_two_columns_of_one_name_are_refused(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT 1 AS id, 2 AS id"))
        with pytest.raises(ValueError, match="two columns have one name, label them: id, id"):
            fetch_dicts(found)
