"""Errors: what each failure of a real database is answered with, and what no answer shows."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from chassis_relay import Relay, relayed
from chassis_stock import (
    Item,
    Part,
    changed,
    checked_out,
    create_stock,
    create_tables,
    engines,
    only_on,
    started,
    threads_ended,
)
from fastapi import APIRouter, FastAPI, HTTPException, Request
from httpx2 import AsyncClient, Response
from pydantic import BaseModel
from sqlalchemy import DateTime, Enum, MetaData, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from chassis import ChassisSettings
from chassis.app import create_app
from chassis.db import Base, DbReadSession, DbSession, DbSessions, session_scope
from chassis.db.migrations.connect import open_connection
from chassis.http.problems import Problem, problem_responses

SECRET = "s3cret"


class NewItem(BaseModel):
    name: str
    quantity: int = 0


class Start(BaseModel):
    hour: time | None = None
    local: datetime | None = None


class Due(BaseModel):
    at: datetime


class Apart(Base):
    __abstract__ = True
    metadata = MetaData()


class Draft(Apart):
    """A row with a version, so that a lost update is noticed."""

    __tablename__ = "draft"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    mood: Mapped[Literal["good", "bad"]] = mapped_column(
        Enum("good", "bad", name="mood"), default="good"
    )
    hour: Mapped[time | None]
    local: Mapped[datetime | None] = mapped_column(DateTime(timezone=False))
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings)
    create_tables(settings, Draft.metadata)
    return settings


@cache
def create_router() -> APIRouter:
    """Build the routes of these tests."""
    router = APIRouter(responses=problem_responses(409))

    @router.post("/items")
    async def add(new: NewItem, session: DbSession) -> None:
        session.add(Item(name=new.name, quantity=new.quantity))
        await session.commit()

    @router.post("/parts")
    async def add_part(session: DbSession, item: int | None = None) -> None:
        await session.execute(insert(Part).values(item_id=item))
        await session.commit()

    @router.get("/items")
    async def count(session: DbReadSession) -> int:
        return await session.scalar(select(func.count(Item.id))) or 0

    @router.post("/run")
    async def run(session: DbSession, statement: str) -> None:
        await session.execute(text(statement))
        await session.commit()

    @router.post("/late")
    async def write_too_late(request: Request, session: DbSession) -> None:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        await session.execute(select(Item))
        async with session_scope(request.app.state.sessions.write) as other:
            await other.execute(update(Item).values(quantity=1))
            await other.commit()
        await session.execute(update(Item).values(quantity=2))

    @router.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name]

    @router.post("/write-in-read")
    async def write_in_read(session: DbReadSession) -> None:
        await session.execute(text("DELETE FROM item"))

    @router.post("/due")
    async def add_due(due: Due, session: DbSession, now: bool = False) -> None:
        session.add(Item(created_at=datetime.now() if now else due.at))
        await session.commit()

    @router.get("/due")
    async def count_due(at: datetime, session: DbReadSession) -> int:
        statement = select(func.count(Item.id)).where(Item.created_at == at)
        return await session.scalar(statement) or 0

    @router.post("/starts")
    async def add_start(start: Start, session: DbSession, now: bool = False) -> None:
        local = datetime.now(UTC) if now else start.local
        session.add(Draft(title="", hour=start.hour, local=local))
        await session.commit()

    @router.get("/page")
    async def read_page(session: DbReadSession, limit: int = 1, offset: int = 0) -> int:
        return len((await session.scalars(select(Item.id).limit(limit).offset(offset))).all())

    @router.get("/items/{item}")
    async def find(item: int, session: DbReadSession) -> str | None:
        return await session.scalar(select(Item.name).where(Item.id == item))

    @router.post("/details")
    async def add_details(request: Request, session: DbSession) -> None:
        session.add(Item(details=await request.json()))
        await session.commit()

    @router.get("/drafts")
    async def list_drafts(session: DbReadSession) -> list[str]:
        drafts = await session.scalars(select(Draft))
        return [f"{draft.title} {draft.mood}" for draft in drafts]

    @router.post("/drafts/{draft}/{change}")
    async def change_draft(draft: int, change: str, session: DbSession) -> None:
        found = await session.get_one(Draft, draft)
        if change in ("title", "mood"):
            setattr(found, change, "bad" if getattr(found, change) == "good" else "good")
            await session.commit()
            return
        table = Draft.metadata.tables["draft"]
        other = delete(table) if change == "gone" else update(table).values(version=7)
        await session.execute(other)
        if change == "delete":
            await session.delete(found)
        found.title = "second"
        await session.commit()

    return router


@asynccontextmanager
async def serving(settings: ChassisSettings) -> AsyncIterator[AsyncClient]:
    """Start an application with these routes."""
    async with started(create_stock(settings, create_router())) as client:
        yield client


def app_of(client: AsyncClient) -> FastAPI:
    transport: Any = client._transport
    app: FastAPI = transport.app
    return app


ERRORS: dict[str, Exception] = {
    "os": ConnectionRefusedError(SECRET),
    "timeout": TimeoutError(SECRET),
    "value": ValueError(SECRET),
    "gone": HTTPException(410, "It was sold."),
    "unauthorized": HTTPException(401, headers={"WWW-Authenticate": "Bearer"}),
    "unregistered": HTTPException(499, "The client left."),
    "not-modified": HTTPException(304, headers={"ETag": '"1"'}),
}


def check(response: Response, status: int) -> dict[str, Any]:
    """Check what every problem is; give its content."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in response.headers) == (status == 503)
    content: dict[str, Any] = response.json()
    assert content["status"] == status
    assert content["type"] == "about:blank"
    assert content["title"]
    assert SECRET not in response.text
    return content


async def test_a_name_that_is_taken_is_a_conflict_without_the_name(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings) as client:
        assert (await client.post("/items", json={"name": SECRET})).status_code == 200

        response = await client.post("/items", json={"name": SECRET})

        assert check(response, 409)["title"] == "Conflict"
        assert (await client.get("/items")).json() == 1
    assert "POST /items: 409" in caplog.text
    assert SECRET not in caplog.text


async def test_a_parent_that_is_missing_is_a_conflict(settings: ChassisSettings) -> None:
    async with serving(settings) as client:
        check(await client.post("/parts?item=7"), 409)


async def test_an_exclusion_constraint_is_a_conflict(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    async with serving(settings) as client:
        for statement, status in (
            ("CREATE TABLE stay (days int4range, EXCLUDE USING gist (days WITH &&))", 200),
            ("INSERT INTO stay VALUES ('[1, 5]')", 200),
            ("INSERT INTO stay VALUES ('[5, 9]')", 409),
        ):
            response = await client.post("/run", params={"statement": statement})
            assert response.status_code == status


@pytest.mark.parametrize(
    "request_", [("/parts", None), ("/items", {"name": SECRET, "quantity": -1})], ids=str
)
async def test_a_missing_or_impossible_value_is_a_bug(
    settings: ChassisSettings, request_: tuple[str, Any]
) -> None:
    path, content = request_
    async with serving(settings) as client:
        check(await client.post(path, json=content), 500)


@pytest.mark.parametrize(
    "due",
    [
        "2024-02-29T10:00:00",
        "2024-02-29 10:00",
        "2024-02-29",
        "9999-12-31T23:59:59-05:00",
        "0001-01-01T00:00:00+05:00",
    ],
)
async def test_a_moment_that_cannot_be_stored_is_the_clients_fault(
    settings: ChassisSettings, due: str
) -> None:
    async with serving(settings) as client:
        check(await client.post("/due", json={"at": due}), 422)
        check(await client.get("/due", params={"at": due}), 422)
        assert (await client.post("/due", json={"at": "2024-02-29T10:00Z"})).status_code == 200


async def test_a_naive_datetime_of_the_services_own_is_a_bug(settings: ChassisSettings) -> None:
    async with serving(settings) as client:
        check(await client.post("/due?now=true", json={"at": "2024-02-29T10:00Z"}), 500)


@pytest.mark.parametrize(
    "start",
    [
        {"hour": 3600},
        {"hour": "12:30:00Z"},
        {"local": 1700000000},
        {"local": 1700000000123},
        {"local": 1700000000.5},
    ],
    ids=str,
)
async def test_a_time_that_the_client_wrote_as_a_number_is_the_clients_fault(
    settings: ChassisSettings, start: dict[str, Any]
) -> None:
    async with serving(settings) as client:
        check(await client.post("/starts", json=start), 422)
        check(await client.post("/starts?now=true", json={}), 500)


@pytest.mark.parametrize("page", ["limit=-1", "offset=-1"])
async def test_a_page_that_postgresql_refuses_is_the_clients_fault(
    settings: ChassisSettings, page: str
) -> None:
    only_on("postgres", settings)
    async with serving(settings) as client:
        check(await client.get(f"/page?{page}"), 422)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
async def test_a_number_beyond_64_bits_is_the_clients_fault(
    settings: ChassisSettings, number: int
) -> None:
    async with serving(settings) as client:
        check(await client.post("/items", json={"name": "bolt", "quantity": number}), 422)
        check(await client.post(f"/parts?item={number}"), 422)
        check(await client.get(f"/items/{number}"), 422)
        assert (await client.get("/items")).json() == 0


@pytest.mark.parametrize("details", [{"n": float("nan")}, {"s": "\ud800"}], ids=ascii)
async def test_a_document_that_no_database_reads_is_the_clients_fault(
    settings: ChassisSettings, details: dict[str, Any]
) -> None:
    async with serving(settings) as client:
        check(await client.post("/details", content=json.dumps(details)), 422)


async def test_what_a_column_cannot_hold_is_the_clients_fault(settings: ChassisSettings) -> None:
    async with serving(settings) as client:
        check(await client.post("/items", json={"name": "a\x00b"}), 422)
        check(await client.post("/items", json={"name": "bolt", "quantity": 2**31}), 422)
        check(await client.post("/items", json={"name": "bolt", "quantity": -(2**31) - 1}), 422)
        assert (await client.get("/items")).json() == 0


async def test_what_postgresql_cannot_hold_is_the_clients_fault(
    settings: ChassisSettings,
) -> None:
    only_on("postgres", settings)
    async with serving(settings) as client:
        check(await client.post("/details", json={"s": "\x00"}), 422)
        for expression in (
            "CAST('too long' AS varchar(3)) || repeat('x', 9)",
            "CAST(40000 AS smallint)",
            "CAST('2024-02-30' AS date)",
            "CAST('noon' AS timestamptz)",
        ):
            status = 200 if "too long" in expression else 422
            response = await client.post("/run", params={"statement": f"SELECT {expression}"})
            assert response.status_code == status
        create = "CREATE TABLE tag (name varchar(3))"
        assert (await client.post("/run", params={"statement": create})).status_code == 200
        store = "INSERT INTO tag VALUES ('long')"
        check(await client.post("/run", params={"statement": store}), 422)


@pytest.mark.parametrize("change", ["update", "delete", "gone"])
async def test_a_row_that_changed_meanwhile_is_a_conflict(
    settings: ChassisSettings, session: AsyncSession, change: str
) -> None:
    session.add(Draft(id=1, title="first"))
    await session.commit()
    async with serving(settings) as client:
        check(await client.post(f"/drafts/1/{change}"), 409)


ALTERATIONS = {
    "a wider integer": ["ALTER TABLE draft ALTER version TYPE bigint"],
    "another text": ["ALTER TABLE draft ALTER title TYPE varchar(99)"],
    "another enum": [
        "ALTER TYPE mood RENAME TO old",
        "CREATE TYPE mood AS ENUM ('good', 'bad', 'fair')",
        "ALTER TABLE draft ALTER mood TYPE mood USING mood::text::mood",
        "DROP TYPE old",
    ],
}


@pytest.mark.parametrize("path", ["/drafts", "/drafts/1/title", "/drafts/1/mood"])
@pytest.mark.parametrize("alteration", ALTERATIONS)
async def test_a_type_that_a_migration_changes_is_unavailable_once(
    settings: ChassisSettings, session: AsyncSession, alteration: str, path: str
) -> None:
    only_on("postgres", settings)
    session.add(Draft(id=1, title="first"))
    await session.commit()
    async with serving(changed(settings, database_read_pool_size=1)) as client:
        method = "POST" if path.endswith(("title", "mood")) else "GET"
        for _ in range(2):
            assert (await client.request(method, path)).status_code == 200
        with open_connection(settings) as connection:
            for statement in ALTERATIONS[alteration]:
                connection.execute(text(statement))
            connection.commit()
        answers = [await client.request(method, path) for _ in range(3)]
        late = [answer for answer in answers if answer.status_code != 200]
        for answer in late:
            check(answer, 503)
        assert len(late) <= 1
        assert answers[-1].status_code == 200


async def test_a_full_pool_is_unavailable(settings: ChassisSettings) -> None:
    settings = changed(settings, database_pool_size=1, database_pool_timeout=0.05)
    async with serving(settings) as client:
        engine = engines(app_of(client))[0]
        async with engine.connect():
            check(await client.post("/items", json={"name": "bolt"}), 503)
            assert (await client.get("/items")).json() == 0
        assert (await client.post("/items", json={"name": "bolt"})).status_code == 200


async def test_a_file_that_another_process_writes_is_unavailable(
    settings: ChassisSettings,
) -> None:
    only_on("sqlite", settings)
    async with serving(changed(settings, database_sqlite_busy_timeout=50)) as client:
        assert (await client.get("/items")).json() == 0
        with locked_by_another_process(settings):
            check(await client.post("/items", json={"name": "bolt"}), 503)
            assert (await client.get("/items")).json() == 0
        assert (await client.post("/items", json={"name": "bolt"})).status_code == 200


@contextmanager
def locked_by_another_process(settings: ChassisSettings) -> Iterator[None]:
    program = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, settings.database_target.url.database or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.stdin.close()


async def test_a_file_that_is_no_database_is_an_outage(tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    file.write_text(SECRET * 100)
    broken = ChassisSettings(database_sqlite_path=file)
    async with threads_ended(), serving(broken) as client:
        check(await client.get("/items"), 503)


async def test_a_statement_that_takes_too_long_is_a_timeout(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    async with serving(changed(settings, database_statement_timeout_seconds=0.1)) as client:
        check(await client.post("/run", params={"statement": "SELECT pg_sleep(9)"}), 504)


async def test_a_lock_that_is_held_too_long_is_unavailable(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    only_on("postgres", settings)
    session.add(Item(name="bolt"))
    await session.commit()
    await session.execute(select(Item).with_for_update())
    async with serving(changed(settings, database_lock_timeout_seconds=0.1)) as client:
        statement = "UPDATE item SET quantity = 1"
        check(await client.post("/run", params={"statement": statement}), 503)
    await session.rollback()


async def test_a_serialization_failure_is_unavailable(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    only_on("postgres", settings)
    session.add(Item(name="bolt"))
    await session.commit()
    async with serving(settings) as client:
        check(await client.post("/late"), 503)


async def test_a_connection_that_the_server_ends_is_unavailable(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    async with serving(settings) as client:
        statement = "SELECT pg_terminate_backend(pg_backend_pid())"
        check(await client.post("/run", params={"statement": statement}), 503)
        assert (await client.post("/items", json={"name": "bolt"})).status_code == 200


async def test_a_server_that_is_gone_is_unavailable_until_it_is_back(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    only_on("postgres", settings)
    with relayed(settings.database_target) as relay:
        async with serving(through(relay, settings)) as client:
            assert (await client.get("/items")).json() == 0
            relay.stop()
            for _ in range(2):
                check(await client.get("/items"), 503)
                check(await client.post("/items", json={"name": "bolt"}), 503)
            assert checked_out(*engines(app_of(client))) == 0

            relay.start()
            assert (await client.get("/items")).json() == 0
            assert (await client.post("/items", json={"name": "bolt"})).status_code == 200
    assert SECRET not in caplog.text


def through(relay: Relay, settings: ChassisSettings) -> ChassisSettings:
    """Give settings that reach the same database by way of a relay."""
    url = settings.database_target.url.set(host="127.0.0.1", port=relay.port, password=SECRET)
    return changed(settings, database_url=url.render_as_string(hide_password=False))


@pytest.mark.parametrize("name", ["os", "timeout", "value"])
async def test_an_error_from_anywhere_else_is_a_bug(settings: ChassisSettings, name: str) -> None:
    async with serving(settings) as client:
        check(await client.get(f"/raise/{name}"), 500)


async def test_a_write_through_a_read_session_is_a_bug(settings: ChassisSettings) -> None:
    async with serving(settings) as client:
        check(await client.post("/write-in-read"), 500)


async def test_what_a_handler_raises_keeps_its_detail_and_headers(
    settings: ChassisSettings,
) -> None:
    async with serving(settings) as client:
        gone = await client.get("/raise/gone")
        assert check(gone, 410)["detail"] == "It was sold."

        unauthorized = await client.get("/raise/unauthorized")
        assert "detail" not in check(unauthorized, 401)
        assert unauthorized.headers["www-authenticate"] == "Bearer"

        assert check(await client.get("/raise/unregistered"), 499)["detail"] == "The client left."


async def test_a_status_that_is_no_error_has_no_problem(settings: ChassisSettings) -> None:
    async with serving(settings) as client:
        response = await client.get("/raise/not-modified")

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == '"1"'


async def test_unknown_paths_and_methods_are_problems(settings: ChassisSettings) -> None:
    async with serving(settings) as client:
        assert check(await client.get("/nowhere"), 404)["title"] == "Not Found"

        for path, methods in {"/raise/gone": "GET", "/items": "GET, POST"}.items():
            response = await client.delete(path)
            check(response, 405)
            assert response.headers["allow"] == methods


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ('{"name": {"key": "s3cret"}}', ["body", "name"]),
        ('{"name": "x", "quantity": "s3cret"}', ["body", "quantity"]),
        ('{"name": "s3cret", "quantity": }', None),
        ('"s3cret"', ["body"]),
        ("{}", ["body", "name"]),
    ],
)
async def test_invalid_input_is_named_and_never_repeated(
    settings: ChassisSettings, body: str, loc: list[str] | None
) -> None:
    async with serving(settings) as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/items", content=body, headers=headers)

    (error,) = check(response, 422)["errors"]
    assert error.keys() == {"type", "loc", "msg"}
    assert loc is None or error["loc"] == loc


async def test_the_document_names_the_problems(settings: ChassisSettings) -> None:
    async with serving(settings) as client:
        document = (await client.get("/openapi.json")).json()

    responses = document["paths"]["/items"]["post"]["responses"]
    for status in ("409", "422"):
        (media_type,) = responses[status]["content"].items()
        assert media_type == (
            "application/problem+json",
            {"schema": {"$ref": "#/components/schemas/Problem"}},
        )
    schemas = document["components"]["schemas"]
    assert {"Problem", "InvalidInput"} <= schemas.keys()
    assert schemas.keys().isdisjoint({"HTTPValidationError", "ValidationError"})


def test_the_document_keeps_what_a_route_says_of_its_problems(settings: ChassisSettings) -> None:
    router = APIRouter()
    gone = {"model": Problem, "description": "It was sold."}

    @router.get("/sold", responses={"4XX": {"model": Problem}, "default": gone, 410: gone})
    async def sold() -> None: ...

    paths = create_app(settings, package="sample", routers=[router]).openapi()["paths"]
    responses = paths["/sold"]["get"]["responses"]
    for status in ("4XX", "default", "410"):
        assert responses[status]["content"].keys() == {"application/problem+json"}
    assert responses["410"]["description"] == "It was sold."


def test_the_document_names_503_for_routes_that_use_a_database(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.get("/session")
    async def take_session(session: DbReadSession) -> None: ...

    @router.get("/sessions")
    async def take_sessions(sessions: DbSessions) -> None: ...

    @router.get("/neither")
    async def take_neither() -> None: ...

    paths = create_app(settings, package="sample", routers=[router]).openapi()["paths"]
    assert {path for path in paths if "503" in paths[path]["get"]["responses"]} == {
        *("/readyz", "/session", "/sessions")
    }
