"""The guide's page of relations: its own text runs, on both engines."""

import asyncio
import json
import re

import pytest
from chassis.db import DbReadSession
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy.exc import InvalidRequestError

from tests.models.trial import Databases, Package
from tests.pages._package import check_blocks, create_apps
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/relations.md"


def test_every_block_of_the_page_is_run(package: Package) -> None:
    check_blocks(package, PAGE)


def test_the_page_makes_a_service_on_both_engines(package: Package, databases: Databases) -> None:
    for app in create_apps(package, databases, "customers", create_forgetful_router(package)):
        asyncio.run(use_service(app))


def create_forgetful_router(package: Package) -> APIRouter:
    """Build a route that reads a relation which it did not load."""
    customer = package.models.Customer
    router = APIRouter()

    @router.get("/forgotten")
    async def forget(session: DbReadSession) -> int:
        return len((await session.get_one(customer, 1)).orders)

    return router


async def use_service(app: FastAPI) -> None:
    """Store customers with orders; read them; meet both conflicts of the foreign key."""
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        for name in ("Ada", "Bob"):
            assert (await http.post("/customers", json={"name": name})).status_code == 201
        for total in ("1.50", 2):
            order = {"customer_id": 1, "total": total}
            assert (await http.post("/orders", json=order)).status_code == 201
        orders = [{"id": 1, "total": "1.50"}, {"id": 2, "total": "2.00"}]
        ada = {"id": 1, "name": "Ada"}
        assert (await http.get("/customers/1")).json() == ada | {"orders": orders}
        newest = [order | {"customer": ada} for order in reversed(orders)]
        assert (await http.get("/orders")).json() == newest
        with pytest.raises(InvalidRequestError, match=r"'Customer\.orders' is not available"):
            await http.get("/forgotten")

        for conflict in (
            await http.post("/orders", json={"customer_id": 3, "total": 1}),
            await http.delete("/customers/1"),
        ):
            problem = conflict.json()
            assert problem.pop("request_id")
            assert (conflict.status_code, problem) == (409, problem_of_the_page())
        assert (await http.delete("/customers/2")).status_code == 204
        assert (await http.get("/customers/2")).status_code == 404
        wrong = {"customer_id": "1", "total": 1}
        assert (await http.post("/orders", json=wrong)).status_code == 422


def problem_of_the_page() -> dict[str, object]:
    """Read the answer that the page shows."""
    block = re.search(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    problem: dict[str, object] = json.loads(block[1])
    return problem
