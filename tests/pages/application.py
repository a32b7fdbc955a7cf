"""The guide's page of the application: its own text runs, on both engines."""

import asyncio
import importlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from chassis import ChassisSettings
from chassis.db import DatabaseSettings, create_database_engine, session_scope
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text

from tests.model_table import lint
from tests.models.trial import ENGINES, Databases, Package
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/application.md"
# What a service has, beside what the page shows.
FILES = {
    "settings.py": """
from chassis import ChassisSettings
from pydantic import SecretStr


class Settings(ChassisSettings):
    reports_url: SecretStr | None = None
""",
    "models/__init__.py": """
from chassis.db import Base
from sqlalchemy.orm import Mapped, mapped_column


class Rate(Base):
    __tablename__ = "rates"

    currency: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


class Key(Base):
    __tablename__ = "keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[str]
""",
    "routers/__init__.py": "from . import rates\n\nrouters = [rates.router]\n",
}


@pytest.fixture(scope="module")
def service(package: Package) -> Package:
    """Complete the service."""
    for name, content in FILES.items():
        (package.folder / name).write_text(content)
    return package


def test_every_block_of_the_page_is_run(package: Package) -> None:
    blocks = re.findall(r"^ *```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    files = [
        package.folder / name
        for name in (
            "main.py",
            "tenants.py",
            "keys.py",
            "routers/rates.py",
            "admin.py",
            "reports.py",
        )
    ]
    asgi = ROOT / "template/src/{{package_name}}/asgi.py"
    assert asgi.read_text(encoding="utf-8").endswith(blocks.pop(4))
    assert blocks == [file.read_text(encoding="utf-8") for file in files]
    for block in blocks:
        lint(block)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_page_makes_a_service(
    service: Package, databases: Databases, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    main = importlib.import_module(f"{service.name}.main")
    fields = databases.create(engine).model_dump(exclude_unset=True)
    app = main.create_service(ChassisSettings(**fields))
    with caplog.at_level("INFO"), caplog.at_level("INFO", logger="chassis"):
        asyncio.run(use_service(app, service.models))
    lines = [record.getMessage() for record in caplog.records]
    assert "no rate for USD" in lines
    assert "GET /rates/{currency} 400" in lines
    assert "GET /rates/{currency} 404" in lines


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("is_documented", [True, False])
def test_what_is_mounted_asks_the_database_for_the_key(
    service: Package, databases: Databases, engine: str, *, is_documented: bool
) -> None:
    main, admin = (importlib.import_module(f"{service.name}.{name}") for name in ("main", "admin"))
    fields = databases.create(engine).model_dump(exclude_unset=True)
    app = main.create_service(ChassisSettings(**fields, docs_enabled=is_documented))
    admin.mount_admin(app)
    asyncio.run(use_admin(app, service.models, documents=200 if is_documented else 404))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_database_is_another_one(
    service: Package, databases: Databases, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = importlib.import_module(f"{service.name}.reports")
    settings = importlib.import_module(f"{service.name}.settings").Settings
    own, other = (url_of(databases.create(engine)) for _ in range(2))
    if engine == "postgres":
        monkeypatch.setenv("APP_DATABASE_READ_URL", own)
    monkeypatch.setenv("APP_DATABASE_URL", own)
    monkeypatch.setenv("APP_ALEMBIC_DATABASE_URL", own)

    async def find_places() -> set[str]:
        async with reports.open_reports(settings(reports_url=other)) as sessions:
            for factory in (sessions.write, sessions.read):
                async with session_scope(factory) as session:
                    assert await session.scalar(text("SELECT 1")) == 1
            return {found.url.database for found in sessions.engines.values()}

    assert own != other
    (place,) = asyncio.run(find_places())
    assert place is not None
    assert place in other


def url_of(settings: DatabaseSettings) -> str:
    """Return the URL of a database."""
    url = settings.database_url
    return f"sqlite:///{settings.database_sqlite_path}" if url is None else url.get_secret_value()


async def use_service(app: FastAPI, models: Any) -> None:
    """Ask for a rate, as a tenant and not."""
    async with open_client(app, models) as http:
        assert (await http.get("/livez")).status_code == 200
        refused = await http.get("/rates/EUR")
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["detail"] == "Name your tenant in X-Tenant."
        http.headers["X-Tenant"] = "a"
        assert (await http.get("/rates/EUR")).json() == 9
        assert (await http.get("/rates/USD")).json()["detail"] == "There is no rate for USD."
        info = (await http.get("/openapi.json")).json()["info"]
        assert info["summary"] == "What money is worth."


async def use_admin(app: FastAPI, models: Any, *, documents: int) -> None:
    """Write with a key and without, and ask for the documents of what is mounted."""
    async with open_client(app, models) as http:
        http.headers["X-Tenant"] = "a"
        refused = await http.post("/admin/forget")
        assert (refused.status_code, refused.json()["detail"]) == (403, "Give a key in X-Key.")
        done = await http.post("/admin/forget", headers={"X-Key": "k"})
        assert (done.status_code, done.json()) == (200, "forgotten")
        for path in ("/admin/docs", "/admin/openapi.json", "/docs"):
            assert (await http.get(path)).status_code == documents


@asynccontextmanager
async def open_client(app: FastAPI, models: Any) -> AsyncIterator[AsyncClient]:
    """Make the tables, with a row in each, start the application and yield a client."""
    engine = create_database_engine(app.state.settings)
    async with engine.begin() as connection:
        await connection.run_sync(models.Base.metadata.create_all)
    async with engine.begin() as connection:
        await connection.execute(models.Rate.__table__.insert(), [{"currency": "EUR", "cents": 9}])
        await connection.execute(models.Key.__table__.insert(), [{"value": "k"}])
    await engine.dispose()
    async with app.router.lifespan_context(app) as state:
        transport = ASGITransport(with_state(app, state))
        async with AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield http


def with_state(app: FastAPI, state: Any) -> Any:
    """Pass the state of the lifespan to each request, as a server does."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return answer
