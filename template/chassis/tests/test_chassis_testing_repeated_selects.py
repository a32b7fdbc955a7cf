"""The guard against N+1: what it finds, with the line, and what it lets pass."""

import re

import pytest
from chassis_forks import RunPytest

pytest_plugins = ["pytester"]

LOOPS = """
import asyncio
from itertools import batched

from fastapi import APIRouter, BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload

from chassis import ChassisSettings, create_app
from chassis.db import DbReadSession, DbSession, DbSessions, run_transaction, session_scope
from shelf.main import Author, Book, know_nobody, router as books

router = APIRouter()


@router.get("/lazy/{by}")
async def read_lazily(by: str, session: DbReadSession):
    books = (await session.scalars(select(Book))).all()
    return await session.run_sync(
        lambda sync: [book.author.name for book in books]  # line: lazy
    )


@router.get("/attributes")
async def read_attributes(session: DbReadSession):
    books = (await session.scalars(select(Book))).all()
    return [(await book.awaitable_attrs.author).name for book in books]  # line: attributes


@router.post("/get")
async def get_each(session: DbSession):
    for book in (await session.scalars(select(Book))).all():
        await session.get(Author, book.author_id)  # line: get


@router.get("/core")
async def select_each(session: DbReadSession):
    for author_id in (await session.scalars(select(Book.author_id))).all():
        await session.scalar(  # line: core
            select(Author.name).where(Author.id == author_id)
        )


@router.get("/in")
async def select_some(session: DbReadSession):
    for length in range(3):
        names = ["Emma", "Dune", "Faust"][:length]
        await session.scalar(select(Book.id).where(Book.title.in_(names)))  # line: in


@router.get("/text")
async def select_text(session: DbReadSession):
    for _ in range(3):
        await session.execute(text("SELECT name FROM author WHERE id = :n"), {"n": 1})  # line: text


async def read_name(sessions, author_id):
    async with session_scope(sessions.read) as session:
        query = select(Author.name).where(Author.id == author_id)
        return await session.scalar(query)  # line: scopes


@router.get("/scopes")
async def open_scopes(sessions: DbSessions):
    return [await read_name(sessions, number) for number in range(3)]


@router.get("/gathered")
async def gather(sessions: DbSessions):
    return await asyncio.gather(*(read_name(sessions, number) for number in range(3)))


async def read_pupils(session, number):
    query = select(Author.id).where(Author.teacher_id == number)
    for pupil in await session.scalars(query):  # line: tree
        await read_pupils(session, pupil)


@router.get("/tree")
async def read_tree(session: DbReadSession):
    await read_pupils(session, 1)


@router.websocket("/message")
async def answer_slowly(websocket: WebSocket, sessions: DbSessions):
    await websocket.accept()
    async for _ in websocket.iter_text():
        async with session_scope(sessions.read) as session:
            for number in range(3):
                await session.get(Author, number)  # line: message
        await websocket.send_text("done")


@router.websocket("/messages")
async def answer(websocket: WebSocket, sessions: DbSessions):
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(await read_name(sessions, 1))


@router.post("/batches")
async def read_batches(session: DbSession):
    session.add_all([Author(name=str(number), books=[Book(title="")]) for number in range(1600)])
    await session.commit()
    session.expunge_all()
    authors = select(Author).options(selectinload(Author.books))
    for author in (await session.scalars(authors)).all():
        len(author.books)
    for ids in batched(range(300), 100):
        await session.scalars(select(Book).where(Book.id.in_(ids)))


@router.get("/eager-tree")
async def load_tree(session: DbReadSession):
    pupils = selectinload(Author.pupils, recursion_depth=-1)
    await session.scalars(select(Author).options(pupils).where(Author.teacher_id.is_(None)))


@router.post("/inserts")
async def insert_many(session: DbSession):
    rows = [{"title": str(number)} for number in range(2500)]
    ids = await session.scalars(insert(Book).returning(Book.id, sort_by_parameter_order=True), rows)
    assert len(ids.all()) == 2500
    await session.commit()


@router.post("/retries")
async def try_again(sessions: DbSessions):
    for _ in range(4):
        try:
            async with session_scope(sessions.write) as session:
                await session.scalar(select(Author.id).limit(1))
                await session.execute(insert(Book), [{"title": None}])
        except IntegrityError:
            pass


@router.post("/transactions")
async def run_again(sessions: DbSessions):
    tries = iter(range(4))

    async def work(session):
        await session.scalar(select(Author.id).limit(1))
        if next(tries) < 3 and session.get_bind().dialect.name == "postgresql":
            await session.execute(
                text("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")
            )

    await run_transaction(sessions.write, work)


@router.get("/poll")
async def poll(session: DbReadSession):
    for _ in range(5):
        await session.scalar(select(Author.name).limit(1))
        await asyncio.sleep(0.03)


@router.get("/stream")
async def stream(sessions: DbSessions):
    async def lines():
        for number in range(5):
            yield await read_name(sessions, number) or ""

    return StreamingResponse(lines())


@router.get("/task")
async def begin_task(sessions: DbSessions, tasks: BackgroundTasks):
    async def read_names():
        for number in range(5):
            await read_name(sessions, number)

    tasks.add_task(read_names)


@router.get("/pair")
async def read_pair(session: DbReadSession):
    return [await session.get(Author, number) for number in (1, 2)]


@router.get("/lines")
async def read_by_lines(sessions: DbSessions):
    await read_name(sessions, 1)
    await read_name(sessions, 2)
    await read_name(sessions, 3)
    await read_name(sessions, 4)


def create_service(settings: ChassisSettings) -> FastAPI:
    return create_app(
        settings, package="shelf", routers=[books, router], authenticators=[know_nobody]
    )
"""
CONFTEST = """
import pytest

from chassis import ChassisSettings
from chassis.testing import Service
from shelf.loops import create_service
from shelf.main import Author, Book


@pytest.fixture(scope="session")
def service() -> Service[ChassisSettings]:
    return Service(create=create_service, settings=ChassisSettings, package="shelf")


@pytest.fixture
async def books(session):
    teacher = Author(id=1, name="0", books=[Book(title="Emma")])
    session.add(teacher)
    await session.flush()
    for number, titles in enumerate([["Dune"], ["Faust"], []], 2):
        books = [Book(title=title) for title in titles]
        session.add(Author(id=number, name="", teacher_id=number - 1, books=books))
        await session.flush()
    await session.commit()
    if session.bind.dialect.name == "postgresql":
        from sqlalchemy import text
        await session.execute(text("SELECT setval('author_id_seq', 10)"))
        await session.commit()
"""
HTTP_TESTS = """
import pytest


@pytest.mark.parametrize("request_line", {request_lines})
async def test_request(client, books, request_line):
    response = await client.request(*request_line.split())
    assert response.status_code == 200, response.text
"""
MARKED_TESTS = """
import pytest


@pytest.mark.repeated_selects("each author is locked by itself")
async def test_with_a_reason(client, books):
    await client.post("/get")


@pytest.mark.repeated_selects(reason=" ")
async def test_without_a_reason(client, books):
    await client.post("/get")


async def test_that_fails_by_itself(client, books):
    await client.post("/get")
    assert False


async def test_that_loops_itself(client, books, session):
    from shelf.main import Author

    await client.get("/pair")
    for number in range(5):
        await session.get(Author, number)
"""
WEBSOCKET_TESTS = """
from fastapi.testclient import TestClient


def test_websocket(app):
    with TestClient(app) as client, client.websocket_connect("{path}") as socket:
        for _ in range(5):
            socket.send_text("")
            socket.receive_text()
"""
FAULTY = {
    "GET /lazy/{by}": "lazy",
    "GET /attributes": "attributes",
    "POST /get": "get",
    "GET /core": "core",
    "GET /in": "in",
    "GET /text": "text",
    "GET /scopes": "scopes",
    "GET /gathered": "scopes",
    "GET /tree": "tree",
}
GOOD = [
    *("POST /batches", "POST /inserts", "POST /retries", "POST /transactions", "GET /poll"),
    *("GET /stream", "GET /task", "GET /pair", "GET /lines", "GET /eager-tree"),
]
BATCHED = """from itertools import islice


def batched(iterable, n):
    iterator = iter(iterable)
    while batch := tuple(islice(iterator, n)):
        yield batch
"""


@pytest.fixture
def loops(shelf: pytest.Pytester) -> pytest.Pytester:
    """Give a service with routes that read in loops."""
    # Python 3.11 has no `batched`.
    source = LOOPS.replace("from itertools import batched\n", BATCHED)
    (shelf.path / "shelf" / "loops.py").write_text(source)
    shelf.makeconftest(CONFTEST)
    return shelf


def line_of(service: pytest.Pytester, name: str) -> int:
    """Return the number of the line that is marked with a name."""
    lines = (service.path / "shelf" / "loops.py").read_text().splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if line.endswith(f"# line: {name}")]
    return number


def test_a_select_for_each_row_fails_the_test_with_its_line(
    loops: pytest.Pytester, database: str, run_pytest: RunPytest
) -> None:
    lines = [route.replace("{by}", "id") for route in FAULTY]
    loops.makepyfile(
        HTTP_TESTS.format(request_lines=lines),
        test_websocket=WEBSOCKET_TESTS.format(path="/message"),
    )

    # A worker's report has the lines, too.
    workers = ["-n1"] if database == "sqlite" else []
    result = run_pytest(*workers, "--database", database)

    result.assert_outcomes(failed=len(FAULTY) + 1)
    output = result.stdout.str()
    for route, name in (FAULTY | {"WEBSOCKET /message": "message"}).items():
        found = re.findall(
            rf"^{re.escape(route)} ran the same SELECT 3 times:\n  (.*)\n  (.*)$", output, re.M
        )
        assert found, route
        assert found[0][0].startswith("SELECT ")
        assert found[0][1].startswith(f"shelf/loops.py:{line_of(loops, name)}: ")


def test_what_reads_in_batches_again_or_later_passes(
    loops: pytest.Pytester, database: str, run_pytest: RunPytest
) -> None:
    loops.makepyfile(
        HTTP_TESTS.format(request_lines=GOOD),
        test_websocket=WEBSOCKET_TESTS.format(path="/messages"),
    )

    run_pytest("--database", database).assert_outcomes(passed=len(GOOD) + 1)


def test_a_mark_allows_it_and_has_a_reason(loops: pytest.Pytester, run_pytest: RunPytest) -> None:
    loops.makepyfile(MARKED_TESTS)

    result = run_pytest("--strict-markers")

    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            '*write the reason: @pytest.mark.repeated_selects("…")',
            "*Captured repeated SELECTs call*",
            "POST /get ran the same SELECT 3 times:",
        ]
    )
