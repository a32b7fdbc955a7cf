"""Databases in encodings of old: named at start and by doctor; no client makes a 500 of them."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from chassis_depot import written
from chassis_stock import Item, changed, create_stock, only_on, started
from fastapi import APIRouter, Request
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import ChassisSettings
from chassis.commands.doctor import examine
from chassis.db import Base, DbReadSession, DbSession, create_database_engine
from chassis.db.errors import DatabaseSettingsError
from chassis.db.migrations.connect import open_connection
from chassis.db.migrations.upgrade import upgrade
from chassis.db.postgres.connection_budget import report_budget

ENCODINGS = ("LATIN1", "WIN1252", "SQL_ASCII")


@pytest.fixture(params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    """Return the name of an encoding other than UTF8."""
    return str(request.param)


@pytest.fixture
def old(settings: ChassisSettings, encoding: str) -> Iterator[ChassisSettings]:
    """Yield settings on a database in that encoding."""
    only_on("postgres", settings)
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    name = f"{url.database}_{encoding.lower()}"
    options = f"ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with open_connection(settings) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(f'CREATE DATABASE "{name}" {options}'))
        location = url.set(database=name).render_as_string(hide_password=False)
        yield changed(settings, database_url=location)
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def old_engine(old: ChassisSettings) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on that database, with the tables."""
    engine = create_database_engine(old)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def test_the_start_names_the_encoding(
    old: ChassisSettings, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await report_budget(old, processes=1)

    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"encoding is {encoding}" in warning.getMessage()
    assert "ENCODING 'UTF8'" in warning.getMessage()


def test_migrations_and_doctor_name_the_encoding(
    old: ChassisSettings, encoding: str, tmp_path: Path
) -> None:
    with written(tmp_path) as depot:
        depot.add("1", "op.execute(\"CREATE TABLE note (text text DEFAULT 'ä')\")")
        if encoding == "SQL_ASCII":
            with pytest.raises(DatabaseSettingsError) as raised:
                upgrade(depot.package, old)
            assert "encoding is SQL_ASCII" in str(raised.value)
            assert "\n" not in str(raised.value)
        else:
            upgrade(depot.package, old)
        report = examine(old, depot.package)

    (finding,) = [one for one in report.findings if one.subject == "database, encoding"]
    assert finding.level == ("problem" if encoding == "SQL_ASCII" else "warning")
    assert encoding in finding.message
    assert report.healthy == (encoding != "SQL_ASCII")


async def test_no_text_makes_a_500(
    old: ChassisSettings, encoding: str, old_engine: AsyncEngine
) -> None:
    router = APIRouter()

    @router.post("/items")
    async def add(request: Request, session: DbSession) -> None:
        session.add(Item(**await request.json()))
        await session.commit()

    @router.get("/items")
    async def find(name: str, session: DbReadSession) -> str | None:
        return await session.scalar(select(Item.name).where(Item.name == name))

    async with started(create_stock(old, router)) as client:
        for name, lacks in (("bolt", ()), ("ä", ()), ("😀", ("LATIN1", "WIN1252"))):
            status = 422 if encoding in lacks else 200
            answer = await client.post("/items", json={"name": name})
            assert answer.status_code == status
            found = await client.get("/items", params={"name": name})
            assert found.status_code == status
            assert status == 422 or found.json() == name
        for document in ({"text": "😀"}, {"text": "\x00"}, {"ключ": 1}):
            answer = await client.post("/items", json={"details": document})
            assert answer.status_code == 422
        assert (await client.post("/items", json={"name": "\x00"})).status_code == 422


async def test_utf8_needs_no_word(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    only_on("postgres", settings)
    await report_budget(settings, processes=1)

    assert "encoding" not in caplog.text
