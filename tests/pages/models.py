"""The guide's page of models: its own text runs, on both engines."""

import asyncio
import re
from collections import Counter
from decimal import Decimal
from typing import Any

from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from tests.model_table import lint
from tests.models.trial import Databases, Package
from tests.pages._package import create_apps
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/models.md"


def test_every_block_of_the_page_is_run(package: Package) -> None:
    blocks = re.findall(r"^ *```(\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert blocks == ["python"] * (len(list(package.folder.glob("models/*.py"))) + 1)
    for file in package.folder.glob("[mr]o*/*.py"):
        lint(file.read_text(encoding="utf-8"))


def test_the_page_makes_a_service_on_both_engines(package: Package, databases: Databases) -> None:
    for app in create_apps(package, databases, "invoices"):
        asyncio.run(use_service(app))


async def use_service(app: FastAPI) -> None:
    """Do all that the page speaks of, much of it at once."""
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        await put_customers(http)
        invoices = [await create_invoice(http, total) for total in ("10.00", "0.10", "0.20")]
        assert [one["id"] for one in invoices] == sorted(one["id"] for one in invoices)
        assert (await http.get("/customers/1/total")).json() == "10.30"
        missing = await http.get("/customers/9/total")
        assert missing.json()["detail"] == "There is no customer 9."
        await pay(http, f"/invoices/{invoices[0]['id']}")
        await claim(http, {one["id"] for one in invoices})
        document = (await http.get("/openapi.json")).json()
        responses = document["paths"]["/invoices/{invoice_id}"]["patch"]["responses"]
        assert responses.keys() >= {"200", "404", "409", "412", "422", "428"}


async def put_customers(http: AsyncClient) -> None:
    """Store one customer by many requests at once."""
    puts = (
        http.put("/customers", json={"email": email, "name": f"Ada {number}"})
        for number, email in enumerate(["ada@straße.at", "ADA@STRASSE.AT"] * 10)
    )
    answers = await asyncio.gather(*puts)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["id"] for answer in answers} == {1}
    assert {answer.json()["email"] for answer in answers} == {"ada@strasse.at"}
    last = await http.put("/customers", json={"email": "Ada@Strasse.at", "name": "Ada"})
    assert last.json() == {"id": 1, "email": "ada@strasse.at", "name": "Ada"}


async def create_invoice(http: AsyncClient, total: str) -> dict[str, Any]:
    """Store an invoice; one of a customer who does not exist names the field."""
    lost = await http.post("/invoices", json={"customer_id": 9, "total": total})
    assert lost.status_code == 409
    assert lost.json()["errors"] == [
        {"type": "conflict", "loc": ["body", "customer_id"], "msg": "There is no such customer."}
    ]
    made = await http.post("/invoices", json={"customer_id": 1, "total": total})
    assert made.headers["etag"] == '"1"'
    invoice: dict[str, Any] = made.json()
    assert invoice | {"id": ""} == {"id": "", "state": "open", "total": total, "paid": "0.00"}
    return invoice


async def pay(http: AsyncClient, path: str) -> None:
    """Pay one invoice by many requests at once, and by such as the page's table has."""
    tag = (await http.get(path)).headers["etag"]
    payments = (
        http.patch(path, json={"paid": "1.00"}, headers={"If-Match": tag}) for _ in range(20)
    )
    statuses = Counter(answer.status_code for answer in await asyncio.gather(*payments))
    assert statuses.pop(200) == 1
    assert statuses.keys() <= {409, 412}
    read = await http.get(path)
    assert (read.json()["paid"], read.headers["etag"]) == ("1.00", '"2"')
    for header, status in (
        ('"1", "2"', 200),
        ("*", 200),
        ('"2"', 412),
        ('W/"4"', 412),
        ("4", 422),
        ("", 422),
        (None, 428),
    ):
        headers = {} if header is None else {"If-Match": header}
        answer = await http.patch(path, json={"paid": "1.00"}, headers=headers)
        assert answer.status_code == status, header
    too_much = await http.patch(path, json={"paid": "99.00"}, headers={"If-Match": "*"})
    assert too_much.status_code == 409
    assert too_much.json()["errors"][0]["msg"] == "It is more than is due."
    assert Decimal((await http.get(path)).json()["paid"]) == 3


async def claim(http: AsyncClient, keys: set[str]) -> None:
    """Claim all invoices by more requests than there are, at once."""
    claims = await asyncio.gather(*(http.post("/invoices/next") for _ in range(8)))
    claimed = [one.json()["id"] for one in claims if one.status_code == 200]
    assert sorted(claimed) == sorted(keys)
    assert {one.json()["detail"] for one in claims if one.status_code == 404} == {
        "No invoice is open."
    }
