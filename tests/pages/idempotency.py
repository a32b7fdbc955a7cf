"""The guide's page of idempotency: its own text runs, on both engines."""

import asyncio
import importlib
import re

import pytest
from chassis import ChassisSettings, create_app
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response

from tests.model_table import lint
from tests.models.trial import ENGINES, Databases, Package
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/idempotency.md"
KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"


def test_every_block_of_the_page_is_run(package: Package) -> None:
    blocks = re.findall(r"^ *```(\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    files = ("dependencies.py", "models/__init__.py", "models/order.py", "routers/orders.py")
    assert blocks == ["python"] * (len(files) + 1)
    for name in (*files, "tests/test_orders.py"):
        lint((package.folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_page_makes_a_service_on_both_engines(
    package: Package, databases: Databases, engine: str
) -> None:
    settings = databases.create(engine)
    if not (package.versions / "orders_orders.py").exists():
        lint(package.generate(settings, "orders"))
    package.upgrade(settings)
    assert package.drift(settings) == ""
    orders = importlib.import_module(f"{package.name}.routers.orders")
    fields = settings.model_dump(exclude_unset=True)
    app = create_app(ChassisSettings(**fields), package=package.name, routers=[orders.router])
    asyncio.run(use_service(package, app))
    package.downgrade(settings)


async def use_service(package: Package, app: FastAPI) -> None:
    """Run the page's test, then meet each row of its table."""
    tests = importlib.import_module(f"{package.name}.tests.test_orders")
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):

        async def send(path: str, product: str, customer: str, key: str | None = KEY) -> Response:
            headers = {"X-Customer": customer} | ({} if key is None else {"Idempotency-Key": key})
            return await http.post(path, json={"product": product}, headers=headers)

        await tests.test_an_order_that_is_sent_again_is_placed_once(http)
        assert (await send("/orders", "bolt", "ada")).json() == {"id": 1, "product": "bolt"}
        assert (await send("/orders", "nut", "ada")).status_code == 422
        assert (await send("/orders", "nut", "bob")).json() == {"id": 2, "product": "nut"}
        assert (await send("/orders", "nut", "ada", None)).status_code == 400
        assert (await send("/orders", "nut", "ada", "")).status_code == 400

        answers = [await send("/orders/few", "nut", "cyd", f"{key}") for key in "1123"]
        assert [answer.json()["id"] for answer in answers] == [3, 3, 4, 5]
        assert (await send("/orders/few", "nut", "cyd", "4")).status_code == 409
        assert (await send("/orders/few", "nut", "cyd", "1")).json()["id"] == 3
