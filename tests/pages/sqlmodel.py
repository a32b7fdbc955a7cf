"""The guide's page of SQLModel: its own text runs, on both engines."""

import asyncio
import importlib

from chassis import ChassisSettings, create_app
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from tests.model_table import lint
from tests.models.trial import ENGINES, Databases, Package
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/sqlmodel.md"


def test_the_page_has_every_file(package: Package) -> None:
    assert {file.name for file in package.folder.glob("[mr]o*/*.py")} == {
        "__init__.py",
        "table.py",
        "hero.py",
        "heroes.py",
    }


def test_the_page_makes_a_service_on_both_engines(package: Package, databases: Databases) -> None:
    settings = {engine: databases.create(engine) for engine in ENGINES}
    script = package.generate(settings["sqlite"], "heroes")
    lint(script)
    assert "sqlmodel" not in script
    heroes = importlib.import_module(f"{package.name}.routers.heroes")

    for each in settings.values():
        package.upgrade(each)
        assert package.drift(each) == ""
        fields = each.model_dump(exclude_unset=True)
        app = create_app(ChassisSettings(**fields), package=package.name, routers=[heroes.router])
        asyncio.run(use_service(app))
        package.downgrade(each)
        package.upgrade(each)


async def use_service(app: FastAPI) -> None:
    """Store two heroes, and a third of the same name; read them again."""
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        for name in ("Ada", "Bob"):
            answer = await http.post("/heroes", json={"name": name, "rank": "master"})
            assert answer.status_code == 201, answer.text
            assert answer.json()["made_at"].endswith("Z")
        assert (await http.post("/heroes", json={"name": "ADA"})).status_code == 409
        assert (await http.post("/heroes", json={"name": "x" * 51})).status_code == 422
        assert [hero["name"] for hero in (await http.get("/heroes")).json()] == ["Ada", "Bob"]
