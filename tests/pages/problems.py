"""The guide's page of problems: its own text runs, on both engines."""

import asyncio
import json
import re
from typing import Any

from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response

from tests.models.trial import Databases, Package
from tests.pages._package import check_blocks, create_apps
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/problems.md"


def test_every_block_of_the_page_is_run(package: Package) -> None:
    check_blocks(package, PAGE)


def test_the_page_makes_a_service_on_both_engines(package: Package, databases: Databases) -> None:
    for app in create_apps(package, databases, "members"):
        asyncio.run(use_service(app))


async def use_service(app: FastAPI) -> None:
    """Add members until the club is full; meet both problems of the page."""
    full, taken = problems_of_the_page()
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        names = ("Ada", "Bob", "Cyd", "Dan")
        ada, bob, cyd, dan = (
            {"club": "The chess club", "name": name, "email": f"{name}@example.com"}
            for name in names
        )
        assert (await http.post("/members", json=ada)).json() == 1
        check(await http.post("/members", json=bob | {"name": "Ada"}), taken)
        error = {"type": "conflict", "loc": ["body", "email"]}
        error["msg"] = "This address has a member already."
        check(
            await http.post("/members", json=bob | {"email": ada["email"]}),
            taken | {"errors": [error]},
        )
        for other in (bob, cyd):
            assert (await http.post("/members", json=other)).status_code == 201
        check(await http.post("/members", json=dan), full)
        assert (await http.get("/members/1")).json() == "Ada"
        assert (await http.get("/members/9")).json()["detail"] == "There is no member 9."

        document = (await http.get("/openapi.json")).json()
        assert document["components"]["schemas"]["ClubIsFull"]["properties"].keys() > {"room"}
        responses = document["paths"]["/members"]["post"]["responses"]
        for status in ("403", "409", "422"):
            assert responses[status]["content"].keys() == {"application/problem+json"}


def check(response: Response, problem: dict[str, Any]) -> None:
    """Check that an answer is a problem of the page."""
    found = response.json()
    assert found.pop("request_id")
    assert (response.status_code, found) == (problem["status"], problem)


def problems_of_the_page() -> list[dict[str, Any]]:
    """Read the answers that the page shows."""
    text = PAGE.read_text(encoding="utf-8")
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
