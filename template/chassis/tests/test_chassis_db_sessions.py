"""Sessions: one a request, closed before the response, committed by the handler and nobody else."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import pytest
from chassis_stock import (
    Item,
    Part,
    changed,
    checked_out,
    create_stock,
    create_tables,
    engines,
    only_on,
    opened,
    register_dialect,
    started,
    threads_ended,
)
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import Response, StreamingResponse
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import (
    IntegrityError,
    InvalidRequestError,
    MissingGreenlet,
    PendingRollbackError,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import TypeAliasType

from chassis import ChassisSettings
from chassis.db import (
    Base,
    DbReadSession,
    DbSession,
    ReadOnlySessionError,
    create_session_factory,
    get_db_session,
    session_scope,
)
from chassis.db.errors import NestedWriteScopeError, SessionPlanError, UncommittedChangesWarning
from chassis.db.statements import PROCESS_STATS

ITEMS = Base.metadata.tables["item"]
PlainSession = Annotated[AsyncSession, Depends(get_db_session)]


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings)
    return settings


async def add_item(session: AsyncSession, name: str | None = None, quantity: int = 0) -> int:
    item = Item(name=name, quantity=quantity)
    session.add(item)
    await session.commit()
    return item.id


async def count_items(session: AsyncSession) -> int:
    return await session.scalar(select(func.count(Item.id))) or 0


class TestSessionScope:
    """A session outside of any request."""

    async def test_what_was_not_committed_is_rolled_back(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        factory = create_session_factory(settings, engine)
        async with session_scope(factory) as session:
            await add_item(session)
            session.add(Item())
            await session.flush()
            assert await count_items(session) == 2

        async with session_scope(factory) as session:
            assert await count_items(session) == 1

    async def test_nothing_is_kept_of_a_transaction_in_which_a_statement_failed(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        add = insert(Item).values(name="a")
        async with session_scope(create_session_factory(settings, engine)) as session:
            await session.execute(add)
            for run in (session.execute, session.scalar, session.scalars):
                with pytest.raises(IntegrityError):
                    await run(add)
                for refused in (session.commit(), count_items(session), session.get(Item, 1)):
                    with pytest.raises(PendingRollbackError, match="begin_nested"):
                        await refused
                await session.rollback()
                assert await count_items(session) == 0
                await session.execute(add)
            await session.commit()
            assert await count_items(session) == 1

    async def test_a_savepoint_undoes_what_failed_in_it_alone(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        add = insert(Item).values(name="a")
        async with session_scope(create_session_factory(settings, engine)) as session:
            await session.execute(add)
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    await session.execute(add)
            savepoint = await session.begin_nested()
            with pytest.raises(IntegrityError):
                await session.execute(add)
            with pytest.raises(PendingRollbackError, match="begin_nested"):
                await savepoint.commit()
            await savepoint.rollback()
            await session.execute(insert(Item).values(name="b"))
            await session.commit()
            assert await count_items(session) == 2

    async def test_an_error_reaches_the_caller_and_the_connection_its_pool(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        async def fail() -> None:
            async with session_scope(create_session_factory(settings, engine)) as session:
                await count_items(session)
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        assert checked_out(engine) == 0

    async def test_a_connection_is_taken_by_the_first_statement(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        async with session_scope(create_session_factory(settings, engine)) as session:
            assert checked_out(engine) == 0
            await count_items(session)
            assert checked_out(engine) == 1

    async def test_a_lazy_load_says_what_to_do_instead(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        async with session_scope(create_session_factory(settings, engine)) as session:
            session.add(Part(item_id=await add_item(session)))
            await session.commit()
            session.expunge_all()
            part = (await session.scalars(select(Part))).one()
            with pytest.raises(MissingGreenlet, match=r"Part\.item was not loaded .*selectinload"):
                _ = part.item
            session.expire(part)
            with pytest.raises(MissingGreenlet, match="a column of Part was not loaded"):
                _ = part.item_id
            await session.refresh(part, ["item"])
            assert part.item.quantity == 0

    async def test_a_session_cannot_be_used_afterwards(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        async with session_scope(create_session_factory(settings, engine)) as session:
            await count_items(session)

        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await count_items(session)
        assert checked_out(engine) == 0

    async def test_a_commit_expires_nothing(self, session: AsyncSession) -> None:
        item = Item(name="bolt")
        session.add(item)
        await session.commit()

        assert item.name == "bolt"
        assert not session.in_transaction()

    @pytest.mark.parametrize("autoflush", [False, True])
    async def test_a_query_sees_pending_changes_with_autoflush_only(
        self, settings: ChassisSettings, engine: AsyncEngine, *, autoflush: bool
    ) -> None:
        factory = create_session_factory(settings, engine, autoflush=autoflush)
        async with session_scope(factory) as session:
            session.add(Item())
            assert await count_items(session) == int(autoflush)

    async def test_a_second_write_scope_of_a_task_is_an_error_at_once_on_sqlite(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        only_on("sqlite", settings)
        factory = create_session_factory(settings, engine)
        async with session_scope(factory) as session:
            await add_item(session)
            with pytest.raises(NestedWriteScopeError, match="pass the session"):
                async with session_scope(factory):
                    pass
            assert await count_items(session) == 1

        async with session_scope(factory) as session:
            assert await count_items(session) == 1

    async def test_on_postgres_a_second_write_scope_is_a_second_transaction(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        only_on("postgres", settings)
        factory = create_session_factory(settings, engine)
        async with session_scope(factory) as outer, session_scope(factory) as inner:
            outer.add(Item())
            await outer.flush()
            assert await count_items(inner) == 0

    async def test_another_task_waits_for_its_turn(
        self, settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        factory = create_session_factory(settings, engine)

        async def write() -> None:
            async with session_scope(factory) as session:
                await add_item(session)

        async with session_scope(factory) as session:
            await add_item(session)
            other = asyncio.create_task(write())
            await asyncio.sleep(0.01)
        await other

        async with session_scope(factory) as session:
            assert await count_items(session) == 2

    async def test_a_read_scope_may_be_opened_inside_a_write_scope(
        self, settings: ChassisSettings, engine: AsyncEngine, read_engine: AsyncEngine
    ) -> None:
        async with session_scope(create_session_factory(settings, engine)) as session:
            session.add(Item())
            await session.flush()
            async with session_scope(create_session_factory(settings, read_engine)) as reader:
                assert await count_items(reader) == 0


Refused = Callable[[AsyncSession], Awaitable[object]]


async def flush_a_new_object(session: AsyncSession) -> None:
    session.add(Item())
    await session.flush()


async def commit_a_new_object(session: AsyncSession) -> None:
    session.add(Item())
    await session.commit()


REFUSED: dict[str, Refused] = {
    "flush": flush_a_new_object,
    "commit": commit_a_new_object,
    "insert": lambda session: session.execute(insert(Item).values(quantity=0)),
    "insert_many": lambda session: session.execute(insert(Item), [{"quantity": 0}]),
    "insert_into_a_table": lambda session: session.execute(insert(ITEMS)),
    "update": lambda session: session.execute(update(Item).values(quantity=0)),
    "update_returning": lambda session: session.scalars(
        update(Item).values(quantity=0).returning(Item.id)
    ),
    "delete": lambda session: session.execute(delete(Item)),
}
LOCKS: dict[str, Refused] = {
    "select_for_update": lambda session: session.execute(select(Item).with_for_update()),
    "select_within": lambda session: session.execute(
        select(select(Item.id).with_for_update(read=True).subquery())
    ),
    "get_for_update": lambda session: session.get(Item, 1, with_for_update=True),
}


class TestReadSession:
    """What a read session refuses, and what it gives."""

    @pytest.mark.parametrize("name", REFUSED)
    async def test_a_read_session_refuses_before_anything_is_sent(
        self, settings: ChassisSettings, read_engine: AsyncEngine, name: str
    ) -> None:
        async with session_scope(create_session_factory(settings, read_engine)) as session:
            with pytest.raises(ReadOnlySessionError, match="take DbSession"):
                await REFUSED[name](session)
            assert opened(read_engine) == 0

    @pytest.mark.parametrize("name", LOCKS)
    async def test_a_read_session_refuses_row_locks_each_time_and_runs_no_statement(
        self, settings: ChassisSettings, read_engine: AsyncEngine, name: str
    ) -> None:
        async with session_scope(create_session_factory(settings, read_engine)) as session:
            assert await count_items(session) == 0
            before = PROCESS_STATS.count
            for _ in range(2):
                with pytest.raises(ReadOnlySessionError, match="take DbSession"):
                    await LOCKS[name](session)
            assert PROCESS_STATS.count == before
            assert await count_items(session) == 0

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO part (item_id) VALUES (1)",
            "UPDATE item SET quantity = 0",
            "DELETE FROM item",
        ],
    )
    async def test_the_servers_refusal_of_textual_sql_is_the_same_error(
        self, settings: ChassisSettings, read_engine: AsyncEngine, statement: str
    ) -> None:
        async with session_scope(create_session_factory(settings, read_engine)) as session:
            with pytest.raises(ReadOnlySessionError, match="take DbSession"):
                await session.execute(text(statement))

    async def test_a_changed_object_is_refused(
        self, settings: ChassisSettings, session: AsyncSession, read_engine: AsyncEngine
    ) -> None:
        number = await add_item(session, quantity=7)
        async with session_scope(create_session_factory(settings, read_engine)) as reader:
            item = await reader.get_one(Item, number)
            item.quantity = 8
            with pytest.raises(ReadOnlySessionError):
                await reader.commit()
        await session.refresh(await session.get_one(Item, number))
        assert (await session.get_one(Item, number)).quantity == 7

    async def test_it_reads_what_others_committed_meanwhile(
        self, settings: ChassisSettings, session: AsyncSession, read_engine: AsyncEngine
    ) -> None:
        async with session_scope(create_session_factory(settings, read_engine)) as reader:
            assert await count_items(reader) == 0
            await add_item(session)
            assert await count_items(reader) == 1


def stock_router() -> APIRouter:
    """Give the routes that adjust a quantity."""
    router = APIRouter()

    @router.post("/atomic/{number}")
    async def adjust_at_once(number: int, session: DbSession) -> int:
        statement = update(Item).where(Item.id == number).values(quantity=Item.quantity + 1)
        quantity = (await session.execute(statement.returning(Item.quantity))).scalar_one()
        await session.commit()
        return quantity

    @router.post("/locked/{number}")
    async def read_then_write(number: int, session: DbSession) -> int:
        item = await session.get_one(Item, number, with_for_update=True)
        quantity = item.quantity
        await asyncio.sleep(0)
        item.quantity = quantity + 1
        await session.commit()
        return item.quantity

    return router


@pytest.mark.parametrize("route", ["atomic", "locked"])
async def test_20_tasks_with_25_adjustments_each_end_at_500(
    settings: ChassisSettings, session: AsyncSession, route: str
) -> None:
    number = await add_item(session)
    # It is about the sum, not about how long a slow machine takes to get there.
    settings = changed(settings, database_pool_timeout=60)
    async with started(create_stock(settings, stock_router())) as client:

        async def adjust() -> set[int]:
            return {(await client.post(f"/{route}/{number}")).status_code for _ in range(25)}

        assert set().union(*await asyncio.gather(*[adjust() for _ in range(20)])) == {200}

    assert await session.scalar(select(Item.quantity)) == 500


class Watched:
    """An application, and how many connections were in use when each response started."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.in_use: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.in_use.append(checked_out(*engines(self.app)))
            await send(message)

        await self.app(scope, receive, watch)


def failing_router() -> APIRouter:
    """Give routes that use a session and then fail."""
    router = APIRouter()
    errors: dict[str, Callable[[], Exception]] = {
        "bug": lambda: LookupError("a bug"),
        "http": lambda: HTTPException(418),
        "conflict": lambda: IntegrityError("", None, ValueError()),
    }

    async def fail(session: AsyncSession, error: str) -> None:
        await count_items(session)
        raise errors[error]()

    async def passing(session: DbSession) -> AsyncIterator[AsyncSession]:
        yield session

    @router.get("/write/{error}")
    async def write(session: DbSession, error: str) -> None:
        await fail(session, error)

    @router.get("/read/{error}")
    async def read(session: DbReadSession, error: str) -> None:
        await fail(session, error)

    @router.get("/plain/{error}")
    async def plain(session: PlainSession, error: str) -> None:
        await fail(session, error)

    @router.get("/passed/{error}")
    async def passed(
        session: Annotated[AsyncSession, Depends(passing, scope="function")], error: str
    ) -> None:
        await fail(session, error)

    return router


@pytest.mark.parametrize("kind", ["write", "read", "plain", "passed"])
async def test_a_handler_that_raises_leaves_no_connection_when_the_response_starts(
    settings: ChassisSettings, kind: str
) -> None:
    watched = Watched(create_stock(settings, failing_router()))
    transport = ASGITransport(watched, raise_app_exceptions=False)
    statuses = []
    async with (
        started(watched.app),
        AsyncClient(transport=transport, base_url="http://testserver") as client,
    ):
        for _ in range(10):
            for error in ("bug", "http", "conflict"):
                statuses.append((await client.get(f"/{kind}/{error}")).status_code)
        assert checked_out(*engines(watched.app)) == 0

    assert statuses == [500, 418, 500] * 10
    assert watched.in_use == [0] * 30


async def test_a_session_is_closed_before_the_response_whatever_its_scope(
    settings: ChassisSettings,
) -> None:
    router = APIRouter()

    @router.get("/write")
    async def write(session: DbSession) -> int:
        return await count_items(session)

    @router.get("/read")
    async def read(session: DbReadSession) -> int:
        return await count_items(session)

    @router.get("/plain")
    async def plain(session: PlainSession) -> int:
        return await count_items(session)

    watched = Watched(create_stock(settings, router))
    transport = ASGITransport(watched)
    async with (
        started(watched.app),
        AsyncClient(transport=transport, base_url="http://testserver") as client,
    ):
        for route in ("/write", "/read", "/plain"):
            assert (await client.get(route)).json() == 0
        assert checked_out(*engines(watched.app)) == 0

    assert watched.in_use == [0, 0, 0]


class NoAnswer(Response):
    """An answer that never begins."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


async def test_an_application_that_is_not_started_says_so(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.get("/items")
    async def list_items(session: DbReadSession) -> int:
        return await count_items(session)

    transport = ASGITransport(create_stock(settings, router))
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        with pytest.raises(RuntimeError, match=r"not started.*lifespan_context"):
            await client.get("/items")


async def test_a_session_is_closed_where_a_request_ends_in_another_way(
    settings: ChassisSettings,
) -> None:
    router = APIRouter()

    @router.get("/none")
    async def answer_nothing(session: DbSession) -> Response:
        await count_items(session)
        return NoAnswer()

    @router.get("/wait")
    async def wait(session: DbSession) -> None:
        await count_items(session)
        waiting.set()
        await asyncio.sleep(30)

    waiting = asyncio.Event()
    watched = Watched(create_stock(changed(settings, http_request_timeout_seconds=0.3), router))
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "scheme": "http"}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with started(watched.app):
        await watched({**scope, "path": "/none"}, receive, send)
        assert (sent, checked_out(*engines(watched.app))) == ([], 0)
        await watched({**scope, "path": "/wait"}, receive, send)
        waiting.clear()
        cancelled = asyncio.create_task(watched({**scope, "path": "/wait"}, receive, send))
        await waiting.wait()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert checked_out(*engines(watched.app)) == 0
    assert [message["status"] for message in sent if "status" in message] == [504, 503]
    assert watched.in_use == [0, 0]


async def test_a_middleware_of_the_service_sees_an_answer_whose_session_is_closed(
    settings: ChassisSettings,
) -> None:
    router, in_use = APIRouter(), list[int]()

    @router.get("/")
    async def read(session: DbSession) -> int:
        return await count_items(session)

    async def look(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        in_use.append(checked_out(*engines(app)))
        return response

    app = create_stock(settings, router)
    app.add_middleware(BaseHTTPMiddleware, dispatch=look)
    async with started(app) as client:
        assert [(await client.get("/")).json() for _ in range(3)] == [0, 0, 0]
    assert in_use == [0, 0, 0]


async def test_code_after_a_yield_uses_the_session_before_it_is_closed(
    settings: ChassisSettings,
) -> None:
    router = APIRouter()

    async def commit_at_the_end(session: DbSession) -> AsyncIterator[AsyncSession]:
        yield session
        await session.commit()

    @router.post("/")
    async def add(
        session: Annotated[AsyncSession, Depends(commit_at_the_end, scope="function")],
    ) -> None:
        session.add(Item())

    @router.get("/")
    async def read(session: DbReadSession) -> int:
        return await count_items(session)

    async with started(create_stock(settings, router)) as client:
        assert (await client.post("/")).status_code == 200
        assert (await client.get("/")).json() == 1


@pytest.mark.parametrize("with_middleware", [False, True])
@pytest.mark.parametrize("status", [500, 503])
async def test_a_session_that_cannot_be_ended_is_a_problem(
    settings: ChassisSettings, status: int, *, with_middleware: bool
) -> None:
    if status == 503:
        only_on("postgres", settings)
    router = APIRouter()

    @router.post("/500")
    async def write(session: DbSession) -> None:
        session.add(Item())

    @router.post("/503")
    async def lose_the_connection(session: DbSession) -> None:
        process = await session.scalar(text("SELECT pg_backend_pid()"))
        async with session_scope(app.state.sessions.write) as other:
            await other.execute(text(f"SELECT pg_terminate_backend({process})"))

    app = create_stock(settings, router)
    if with_middleware:
        app.add_middleware(GZipMiddleware)
    async with started(app) as client:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UncommittedChangesWarning)
            answer = await client.post(f"/{status}")
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert checked_out(*engines(app)) == 0


async def test_a_stream_that_uses_the_session_of_its_request_fails_and_takes_no_connection(
    settings: ChassisSettings,
) -> None:
    router = APIRouter()

    @router.get("/")
    async def stream(session: DbSession) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield str(await count_items(session))

        return StreamingResponse(lines())

    async with started(create_stock(settings, router)) as client:
        for _ in range(3):
            assert (await client.get("/")).text == ""


Mixed = Callable[[AsyncSession, AsyncSession], Awaitable[bool]]


async def sees_its_own_write(session: AsyncSession, reader: AsyncSession) -> bool:
    """Write, read through the other, and roll back."""
    item = Item()
    session.add(item)
    await session.flush()
    found = await reader.scalar(select(Item.id).where(Item.id == item.id))
    await session.rollback()
    return session is reader and found == item.id


class Writing:
    """A dependency whose own dependency writes."""

    def __init__(self, session: DbSession) -> None:
        self.session = session


async def reading(session: DbReadSession) -> AsyncIterator[AsyncSession]:
    """Pass a read session on."""
    yield session


ReadingSession = Annotated[AsyncSession, Depends(reading, scope="function")]


def mixed_routers() -> list[APIRouter]:
    """Give routes that ask for both sessions in every order and depth."""
    router = APIRouter()

    @router.get("/read-write")
    async def read_write(reader: DbReadSession, session: DbSession) -> bool:
        return await sees_its_own_write(session, reader)

    @router.get("/write-read")
    async def write_read(session: DbSession, reader: DbReadSession) -> bool:
        return await sees_its_own_write(session, reader)

    @router.get("/read-plain")
    async def read_plain(reader: DbReadSession, session: PlainSession) -> bool:
        return await sees_its_own_write(session, reader)

    @router.get("/plain-write")
    async def plain_write(plain: PlainSession, session: DbSession) -> bool:
        return await sees_its_own_write(session, plain)

    @router.get("/write-plain-read")
    async def write_plain_read(
        session: DbSession, plain: PlainSession, reader: DbReadSession
    ) -> bool:
        return plain is reader and await sees_its_own_write(session, reader)

    @router.get("/nested-read-write")
    async def nested_read_write(
        reader: ReadingSession, writing: Annotated[Writing, Depends()]
    ) -> bool:
        return await sees_its_own_write(writing.session, reader)

    @router.get("/nested-write-read")
    async def nested_write_read(
        writing: Annotated[Writing, Depends()], reader: ReadingSession
    ) -> bool:
        return await sees_its_own_write(writing.session, reader)

    @router.get("/dependency-of-the-route", dependencies=[Depends(Writing)])
    async def dependency_of_the_route(reader: DbReadSession) -> bool:
        return await sees_its_own_write(reader, reader)

    included = APIRouter()

    @included.get("/{place}")
    async def dependency_of_a_router(reader: DbReadSession) -> bool:
        return await sees_its_own_write(reader, reader)

    inner, outer = APIRouter(), APIRouter(dependencies=[Depends(Writing)])
    inner.include_router(included, prefix="/inner")
    outer.include_router(inner, prefix="/outer")
    router.include_router(included, prefix="/included", dependencies=[Depends(get_db_session)])
    return [router, outer]


MIXED = (
    "/read-write",
    "/write-read",
    "/read-plain",
    "/plain-write",
    "/write-plain-read",
    "/nested-read-write",
    "/nested-write-read",
    "/dependency-of-the-route",
    "/included/here",
    "/outer/inner/here",
)


async def test_200_requests_that_mix_sessions_on_pools_of_two_have_one_session_each(
    settings: ChassisSettings,
) -> None:
    settings = changed(
        settings, database_pool_size=2, database_read_pool_size=2, database_pool_timeout=20
    )
    async with started(create_stock(settings, *mixed_routers())) as client:
        responses = await asyncio.gather(*[client.get(MIXED[n % len(MIXED)]) for n in range(200)])

    answers = {(response.url.path, response.text) for response in responses}
    assert answers == {(path, "true") for path in MIXED}


async def test_a_route_that_only_reads_has_a_read_session(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    router = APIRouter()

    @router.get("/")
    async def read(reader: DbReadSession, again: ReadingSession) -> bool:
        assert reader is again
        return reader.bind is engines(app)[1]

    app = create_stock(settings, router)
    async with started(app) as client:
        assert (await client.get("/")).json() is True


async def test_a_route_that_is_added_after_the_start_is_known(settings: ChassisSettings) -> None:
    app = create_stock(settings, *mixed_routers())
    async with started(app) as client:
        assert (await client.get("/read-write")).json() is True

        late = APIRouter()

        @late.get("/late")
        async def read_write(reader: DbReadSession, session: DbSession) -> bool:
            return await sees_its_own_write(session, reader)

        app.include_router(late)
        assert (await client.get("/late")).json() is True


def add_routes_of(router: APIRouter, *dependencies: Any) -> None:
    """Add a route for each of some dependencies, as types of a parameter."""
    for dependency in dependencies:

        async def handle(session: dependency) -> None: ...  # type: ignore[valid-type]

        router.add_api_route(f"/{len(router.routes)}", handle)


async def after_the_response(session: PlainSession) -> AsyncIterator[AsyncSession]:
    """Go on when the session is closed."""
    yield session


@wraps(after_the_response)
def wrapped(session: PlainSession) -> AsyncIterator[AsyncSession]:
    """Call what goes on."""
    return after_the_response(session)


class Afterwards:
    """What goes on is the method of an object."""

    async def __call__(self, session: PlainSession) -> AsyncIterator[AsyncSession]:
        yield session


@pytest.mark.parametrize("dependency", [wrapped, Afterwards()], ids=["wrapped", "an object"])
async def test_whatever_goes_on_after_the_response_stops_the_start(
    settings: ChassisSettings, dependency: Callable[..., AsyncIterator[AsyncSession]]
) -> None:
    late = APIRouter()
    add_routes_of(late, Annotated[AsyncSession, Depends(dependency)])
    app = create_stock(settings, late)
    with pytest.raises(SessionPlanError, match='scope="function"'):
        async with app.router.lifespan_context(app):
            pass


class Unhashable:
    """A handler that is no key."""

    __hash__ = None  # type: ignore[assignment]

    async def __call__(self, session: DbSession) -> None: ...


def use_without_await(session: DbReadSession) -> None:
    """Get a coroutine for each call of the session."""


async def test_a_route_whose_session_cannot_be_planned_stops_the_start(
    settings: ChassisSettings,
) -> None:
    late, unhashable, blocking = APIRouter(), APIRouter(), APIRouter()
    add_routes_of(late, Annotated[AsyncSession, Depends(after_the_response)])
    unhashable.add_api_route("/", Unhashable())
    blocking.add_api_route("/", use_without_await)
    mounted = FastAPI()
    mounted.include_router(late)
    outer = create_stock(settings)
    outer.mount("/mounted", mounted)
    advice = {
        create_stock(settings, late): r'Depends\(after_the_response, scope="function"\)',
        outer: r'Depends\(after_the_response, scope="function"\)',
        create_stock(settings, unhashable): "make it a function",
        create_stock(settings, blocking): "use_without_await, the handler of /, .* an async def",
    }
    for app, words in advice.items():
        with pytest.raises(SessionPlanError, match=words):
            async with started(app):
                pass


async def test_a_dependency_is_found_however_it_is_written(settings: ChassisSettings) -> None:
    router = APIRouter()
    add_routes_of(
        router,
        Annotated[Writing, Depends(Writing)],
        Annotated[Writing, Depends()],
        Annotated[Any, Depends(written_in_text)],
        Annotated[Any, Depends(as_a_default)],
        Annotated[Any, Depends(partial(as_a_default))],
        Annotated[Any, Depends(CallableWriting())],
        Annotated[Any, Security(as_a_default)],
        # What `type Name = …` makes, from Python 3.12 on.
        TypeAliasType("Named", DbSession),
    )

    app = create_stock(settings, router)
    async with started(app):
        plans = app.state.sessions.plans
        assert [*plans.values()] == [True] * 8


async def written_in_text(session: "PlainSession") -> "OnlyForATypeChecker":  # type: ignore[name-defined]  # noqa: F821
    """Have a type that FastAPI does not look at."""


def as_a_default(session: AsyncSession = Depends(get_db_session)) -> None:  # noqa: B008
    """Ask as it was done before `Annotated`."""


class CallableWriting:
    """A dependency that is an object."""

    def __call__(self, session: DbSession) -> None: ...


async def test_a_custom_database_serves_both_sessions_from_one_engine(tmp_path: Path) -> None:
    register_dialect()
    file = tmp_path / "app.db"
    create_tables(ChassisSettings(database_sqlite_path=file))
    settings = ChassisSettings(
        database_url=SecretStr(f"depot+aiosqlite:///{file}"),
        alembic_database_url=SecretStr(f"depot:///{file}"),
    )
    router = APIRouter()

    @router.post("/")
    async def write(session: DbSession) -> int:
        return await add_item(session)

    @router.get("/")
    async def read(session: DbReadSession) -> int:
        with pytest.raises(ReadOnlySessionError):
            await session.execute(delete(Item))
        return await count_items(session)

    app = create_stock(settings, router)
    async with threads_ended(), started(app) as client:
        assert (await client.post("/")).status_code == 200
        assert (await client.get("/")).json() == 1
        engine, read_engine = engines(app)
        assert engine.sync_engine.pool is read_engine.sync_engine.pool


async def test_a_handler_that_opens_a_second_write_scope_is_told_at_once_on_sqlite(
    settings: ChassisSettings,
) -> None:
    only_on("sqlite", settings)
    router = APIRouter()

    @router.post("/")
    async def nested(session: DbSession) -> str:
        try:
            async with session_scope(app.state.sessions.write):
                return "no error"
        except NestedWriteScopeError as error:
            return str(error)

    app = create_stock(settings, router)
    async with started(app) as client:
        assert "pass the session" in (await client.post("/")).json()


Write = Callable[[AsyncSession, Item], Awaitable[object]]


async def change_nothing(session: AsyncSession, item: Item) -> None:
    item.quantity = 7


async def change(session: AsyncSession, item: Item) -> None:
    item.quantity = 8


async def add(session: AsyncSession, item: Item) -> None:
    session.add(Item())


async def flush(session: AsyncSession, item: Item) -> None:
    session.add(Item())
    await session.flush()


async def release_a_savepoint(session: AsyncSession, item: Item) -> None:
    async with session.begin_nested():
        session.add(Item())


async def write_after_a_commit(session: AsyncSession, item: Item) -> None:
    await flush(session, item)
    await session.commit()
    await flush(session, item)


async def commit(session: AsyncSession, item: Item) -> None:
    await flush(session, item)
    await session.commit()


async def roll_back(session: AsyncSession, item: Item) -> None:
    await flush(session, item)
    await session.rollback()


async def commit_a_savepoint(session: AsyncSession, item: Item) -> None:
    await release_a_savepoint(session, item)
    await session.commit()


async def refuse(session: AsyncSession, item: Item) -> None:
    await flush(session, item)
    raise HTTPException(409, "refused")


async def fail_to_add(session: AsyncSession, item: Item) -> None:
    session.add(Item(name=item.name))
    try:
        await session.commit()
    except IntegrityError:
        await session.rollback()


UNCOMMITTED: dict[str, Write] = {
    "add": add,
    "change": change,
    "flush": flush,
    "delete-an-object": lambda session, item: session.delete(item),
    "insert": lambda session, item: session.execute(insert(Part).values(item_id=item.id)),
    "update": lambda session, item: session.execute(update(Item).values(quantity=8)),
    "delete": lambda session, item: session.execute(delete(Part)),
    "text": lambda session, item: session.execute(text("\n UPDATE item SET quantity = 8")),
    "table": lambda session, item: session.execute(update(ITEMS).values(quantity=8)),
    "savepoint": release_a_savepoint,
    "after-a-commit": write_after_a_commit,
}
NOTHING_LEFT: dict[str, Write] = {
    "read": lambda session, item: count_items(session),
    "read-text": lambda session, item: session.execute(text("SELECT 'update' FROM item")),
    "lock": lambda session, item: session.refresh(item, with_for_update=True),
    "change-nothing": change_nothing,
    "commit": commit,
    "roll-back": roll_back,
    "commit-a-savepoint": commit_a_savepoint,
    "refuse": refuse,
    "fail-to-add": fail_to_add,
}


def writing_router(session_type: Any) -> APIRouter:
    """Give a route that leaves its session as it is told to."""
    router = APIRouter()

    @router.post("/{name}")
    async def write(name: str, session: session_type) -> None:
        item = (await session.scalars(select(Item))).one()
        await (UNCOMMITTED | NOTHING_LEFT)[name](session, item)

    return router


@pytest.mark.parametrize("session_type", [DbSession, PlainSession], ids=["alias", "plain"])
async def test_a_handler_that_leaves_writes_uncommitted_is_warned_of(
    settings: ChassisSettings, session: AsyncSession, session_type: Any
) -> None:
    await add_item(session, "bolt", 7)
    async with started(create_stock(settings, writing_router(session_type))) as client:
        for name in UNCOMMITTED:
            with pytest.warns(UncommittedChangesWarning, match=r"POST /\{name\} ended") as caught:
                assert (await client.post(f"/{name}")).status_code == 200
            assert [warning.category for warning in caught] == [UncommittedChangesWarning]


async def test_nothing_is_said_where_nothing_is_left(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    await add_item(session, "bolt", 7)
    async with started(create_stock(settings, writing_router(DbSession))) as client:
        for name in NOTHING_LEFT:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                response = await client.post(f"/{name}")
            assert response.status_code == (409 if name == "refuse" else 200)
            assert [str(warning.message) for warning in caught] == [], name
            await session.execute(delete(Item).where(Item.name.is_(None)))
            await session.commit()
