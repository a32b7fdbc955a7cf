"""The guide's page of pages: its own text runs, on both engines."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urljoin

from chassis.db import session_scope
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from tests.models.trial import Databases, Package
from tests.pages._package import check_blocks, create_apps
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/pages.md"
START = datetime(2024, 2, 29, 10, tzinfo=UTC)


def test_every_block_of_the_page_is_run(package: Package) -> None:
    check_blocks(package, PAGE)


def test_the_page_makes_a_service_on_both_engines(package: Package, databases: Databases) -> None:
    for app in create_apps(package, databases, "orders"):
        asyncio.run(use_service(app, package))


async def use_service(app: FastAPI, package: Package) -> None:
    """Store the orders of two customers; list them in each order and by each filter."""
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        async with session_scope(app.state.sessions.write) as session:
            session.add_all(create_orders(package.models))
            await session.commit()

        shown = json.loads(re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.S)[0])
        response = await http.get("/orders", params={"customer": "Ada", "limit": 1})
        answer = response.json()
        assert answer["items"] == shown["items"]
        link = f'</orders?customer=Ada&limit=1&cursor={answer["next"]}>; rel="next"'
        assert response.headers["link"] == link
        if "sqlite" in app.state.settings.describe_database():
            assert answer["next"] == shown["next"]

        assert await list_ids(http, sort="newest") == [3, 4, 1, 2]
        assert await list_ids(http, sort="dearest") == [2, 3, 4, 1]
        assert await list_ids(http, sort="shipped") == [2, 1, 3, 4]
        assert await list_ids(http, customer="Bob", sort="shipped") == [2, 4]
        assert await list_ids(http, since=(START - timedelta(hours=2)).isoformat()) == [3, 4]
        assert await list_ids(http, product="Pen") == [4, 1]
        refused = await http.get("/orders", params={"sort": "shipped", "cursor": answer["next"]})
        assert refused.json()["errors"][0]["loc"] == ["query", "cursor"]
        assert (await http.get("/orders", params={"sort": "customer"})).status_code == 422


def create_orders(models: Any) -> list[Any]:
    """Return four orders: later ones are older, but for the third; the first two are shipped."""
    rows = [
        ("Ada", "1.50", -3, 2, ["Rubber", "Pen"]),
        ("Bob", "9.00", -4, 1, ["Pencil"]),
        ("Ada", "2.50", 0, None, ["Pencil"]),
        ("Bob", "2.00", -1, None, ["Pen", "Pen"]),
    ]
    return [
        models.Order(
            id=number,
            customer=customer,
            total=Decimal(total),
            created_at=START + timedelta(hours=hours),
            shipped_at=None if days is None else START + timedelta(days=days),
            lines=[models.Line(product=product) for product in products],
        )
        for number, (customer, total, hours, days, products) in enumerate(rows, start=1)
    ]


async def list_ids(http: AsyncClient, **query: Any) -> list[int]:
    """Follow the links of a list, an order a page."""
    response = await http.get("/orders", params=query | {"limit": 1})
    ids = []
    while True:
        ids += [item["id"] for item in response.json()["items"]]
        if "next" not in response.links:
            return ids
        response = await http.get(urljoin(str(response.url), response.links["next"]["url"]))
        assert response.status_code == 200, response.text
