"""Requests that may be sent again: one row, one answer, whatever goes wrong between."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from traceback import format_exception
from typing import Annotated, Any

import pytest
from chassis_stock import Item, changed, create_stock, create_tables, engines, only_on, started
from fastapi import APIRouter, FastAPI, Form, Header, HTTPException, Response, UploadFile, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel
from sqlalchemy import delete, event, func, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import ChassisSettings, problem_response
from chassis.auth import Caller, get_caller
from chassis.db import DbSession
from chassis.db.errors import SessionPlanError
from chassis.db.sessions import session_scope
from chassis.http.problems import MEDIA_TYPE
from chassis.idempotency import (
    Idempotency,
    IdempotencyError,
    IdempotencyKey,
    IdempotentTransaction,
    idempotency,
    idempotent_transaction,
)
from chassis.idempotency.answers import MAX_ANSWER_BYTES

pytestmark = pytest.mark.anyio

KEY = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}
SECRET = "a secret of the answer"


async def find_user(x_user: Annotated[str, Header()] = "ada") -> str:
    return x_user


Once = Annotated[Idempotency, idempotency(caller=find_user)]
OnceIfSent = Annotated[Idempotency, idempotency(caller=find_user, required=False)]


class NewItem(BaseModel):
    name: str | None = None


class ItemRead(BaseModel):
    id: int
    name: str | None
    created_at: datetime


router = APIRouter(prefix="/v1")


@router.post("/items", status_code=201, response_model=ItemRead)
async def add_item(new: NewItem, response: Response, session: DbSession, once: Once) -> Response:
    item = Item(name=new.name)
    session.add(item)
    await session.flush()
    response.headers["Location"] = f"/items/{item.id}"
    response.headers["ETag"] = '"1"'
    return await once.commit(item)


@router.post("/others", status_code=201)
async def add_other(session: DbSession, once: Once) -> Response:
    session.add(Item())
    return await once.commit({"kept": SECRET})


@router.post("/optional")
async def add_with_or_without(session: DbSession, once: OnceIfSent) -> Response:
    session.add(Item())
    return await once.commit()


@router.post("/items/{item_id}/sale", status_code=204)
async def sell_item(item_id: int, session: DbSession, once: Once) -> Response:
    await session.execute(delete(Item).where(Item.id == item_id))
    return await once.commit()


@router.post("/slow")
async def add_slowly(seconds: float, session: DbSession, once: Once) -> Response:
    session.add(Item())
    await session.flush()
    await asyncio.sleep(seconds)
    return await once.commit()


@router.post("/failures/{status}")
async def fail(status: int, session: DbSession, once: Once) -> None:
    session.add(Item())
    await session.flush()
    if status == 500:
        raise RuntimeError("a bug")
    raise HTTPException(status)


@router.post("/made/{kind}")
async def answer_by_hand(kind: str, session: DbSession, once: Once) -> Response:
    session.add(Item())
    made: dict[str, Any] = {
        "text": PlainTextResponse("done", 202, {"X-Made": "by hand"}),
        "refusal": problem_response(402, "The card was declined."),
        "error": problem_response(503),
        "stream": StreamingResponse(iter(("done",))),
        "file": FileResponse(__file__),
        "large": PlainTextResponse("x" * (MAX_ANSWER_BYTES + 1)),
        "wrong": {"no": SECRET},
    }
    if kind == "text":
        made[kind].set_cookie("a", "1, and more")
        made[kind].set_cookie("b", "2")
    return await once.commit(made[kind])


@router.post("/wrong", response_model=ItemRead)
async def answer_wrongly(session: DbSession, once: Once) -> Response:
    session.add(Item())
    return await once.commit({"id": SECRET})


@router.post("/forgetful/{how}")
async def commit_otherwise(how: str, session: DbSession, once: Once) -> Response:
    async with session.begin_nested():
        session.add(Item())
    if how == "before":
        await session.commit()
    response = await once.commit()
    session.add(Item())
    await session.commit()
    return response


async def take_form(
    name: Annotated[str, Form()], file: UploadFile, session: DbSession, once: Once
) -> Response:
    session.add(Item())
    return await once.commit([name, (await file.read()).decode()])


@pytest.fixture
def app(settings: ChassisSettings) -> FastAPI:
    create_tables(settings)
    return create_stock(settings, router)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with started(app) as client:
        yield client


async def count(app: FastAPI, model: Any = Item) -> int:
    async with session_scope(app.state.sessions.read) as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def bug_of(app: FastAPI, path: str) -> str:
    """Return what the server logs of a request that fails."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://testserver") as client:
        with pytest.raises(IdempotencyError) as raised:
            await client.post(path, headers=KEY)
    return "".join(format_exception(raised.value))


async def test_the_answer_is_sent_again_as_it_was(app: FastAPI, http: AsyncClient) -> None:
    first = await http.post("/v1/items", json={"name": "bolt"}, headers=KEY)
    again = await http.post("/v1/items", json={"name": "bolt"}, headers=KEY)

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["name"] == "bolt"
    assert first.content == again.content
    assert again.headers.pop("idempotent-replayed") == "true"
    assert again.headers["location"] == f"/items/{first.json()['id']}"
    assert again.headers["etag"] == '"1"'
    del first.headers["x-request-id"], again.headers["x-request-id"]
    assert dict(first.headers) == dict(again.headers)
    assert await count(app) == await count(app, IdempotencyKey) == 1


async def test_row_key_and_answer_are_one_commit(app: FastAPI, http: AsyncClient) -> None:
    engine = engines(app)[0].sync_engine
    commits: list[int] = []
    event.listen(engine, "commit", lambda connection: commits.append(1))
    assert (await http.post("/v1/others", headers=KEY)).status_code == 201
    assert len(commits) == 1
    assert await count(app) == await count(app, IdempotencyKey) == 1


async def test_what_a_response_model_leaves_out_is_in_no_answer(http: AsyncClient) -> None:
    for _ in range(2):
        answer = await http.post("/v1/items", json={}, headers=KEY)
        assert answer.json().keys() == {"id", "name", "created_at"}


async def test_an_answer_without_a_body_has_none_the_second_time(http: AsyncClient) -> None:
    first = await http.post("/v1/items/1/sale", headers=KEY)
    again = await http.post("/v1/items/1/sale", headers=KEY)

    assert (first.status_code, first.content) == (again.status_code, again.content) == (204, b"")
    assert first.headers.keys() == again.headers.keys() - {"idempotent-replayed"}


@pytest.mark.parametrize(("kind", "status"), [("text", 202), ("refusal", 402)])
async def test_a_response_made_by_hand_is_kept(
    app: FastAPI, http: AsyncClient, kind: str, status: int
) -> None:
    first = await http.post(f"/v1/made/{kind}", headers=KEY)
    again = await http.post(f"/v1/made/{kind}", headers=KEY)

    assert first.status_code == again.status_code == status
    assert first.content == again.content
    first_headers = [one for one in first.headers.multi_items() if one[0] != "x-request-id"]
    assert {*first_headers} < {*again.headers.multi_items()}
    assert await count(app) == 1


@pytest.mark.parametrize("kind", ["error", "stream", "file", "large"])
async def test_what_can_not_be_kept_is_refused_before_the_commit(
    app: FastAPI, http: AsyncClient, kind: str
) -> None:
    assert (await http.post(f"/v1/made/{kind}", headers=KEY)).status_code == 500
    assert "IdempotencyError: commit(answer): " in await bug_of(app, f"/v1/made/{kind}")
    assert await count(app) == await count(app, IdempotencyKey) == 0


async def test_an_answer_that_is_no_response_model_commits_nothing_and_is_in_no_log(
    app: FastAPI, http: AsyncClient
) -> None:
    assert (await http.post("/v1/wrong", headers=KEY)).status_code == 500
    logged = await bug_of(app, "/v1/wrong")
    assert "'loc': ('id',)" in logged
    assert SECRET not in logged
    assert await count(app) == 0


async def test_another_request_with_the_key_is_a_422(app: FastAPI, http: AsyncClient) -> None:
    await http.post("/v1/items", json={"name": "bolt"}, headers=KEY)
    for url, body in (
        ("/v1/items", {"name": "nut"}),
        ("/v1/items", {}),
        ("/v1/items?colour=red", {"name": "bolt"}),
    ):
        refused = await http.post(url, json=body, headers=KEY)
        assert refused.status_code == 422
        assert refused.headers["content-type"] == MEDIA_TYPE
        assert refused.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    await http.post("/v1/items/1/sale", headers=KEY)
    assert (await http.post("/v1/items/2/sale", headers=KEY)).status_code == 422


async def test_a_key_is_of_its_caller_and_its_route(app: FastAPI, http: AsyncClient) -> None:
    for user, path in (("ada", "items"), ("bob", "items"), ("ada", "others")):
        answer = await http.post(f"/v1/{path}", json={}, headers=KEY | {"X-User": user})
        assert answer.status_code == 201
        assert "idempotent-replayed" not in answer.headers
    assert await count(app) == 3


async def test_a_malformed_key_is_a_problem_that_names_the_header(
    app: FastAPI, http: AsyncClient
) -> None:
    wrong = ["", " ", '""', '"a', "a b", "a,b", '"a";p=1', "a\\b", "ä", "x" * 256, '"a", "b"']
    for key in wrong:
        headers = [(b"Idempotency-Key", key.encode("latin-1"))]
        refused = await http.post("/v1/others", headers=headers)
        assert refused.status_code == 400, key
        assert "Idempotency-Key" in refused.json()["detail"]
    assert await count(app) == 0


async def test_a_missing_key_and_two_of_them_are_a_400(app: FastAPI, http: AsyncClient) -> None:
    for headers in ([], [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]):
        refused = await http.post("/v1/others", headers=headers)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert await count(app) == 0


async def test_a_key_is_the_same_with_and_without_quotes(app: FastAPI, http: AsyncClient) -> None:
    for key in ("a" * 255, f'"{"a" * 255}"'):
        await http.post("/v1/others", headers={"Idempotency-Key": key})
    assert await count(app) == 1


async def test_a_key_need_not_be_sent_where_none_is_required(
    app: FastAPI, http: AsyncClient
) -> None:
    for headers in ({}, {}, KEY, KEY):
        assert (await http.post("/v1/optional", headers=headers)).status_code == 200
    assert await count(app) == 3
    assert await count(app, IdempotencyKey) == 1


async def test_a_request_that_is_sent_again_meanwhile_is_a_409(
    app: FastAPI, http: AsyncClient
) -> None:
    async def send() -> tuple[int, bytes]:
        while True:
            answer = await http.post("/v1/slow?seconds=0.2", headers=KEY)
            if answer.status_code != 409:
                return answer.status_code, answer.content
            assert answer.headers["retry-after"] == "1"
            conflicts.append(answer.json()["errors"][0]["type"])
            await asyncio.sleep(0.5)

    conflicts: list[str] = []
    answers = {*await asyncio.gather(*(send() for _ in range(50)))}
    assert answers == {(200, b"null")}
    assert len(conflicts) >= 49
    assert {*conflicts} == {"idempotency_key_in_use"}
    assert await count(app) == 1


async def test_a_second_process_is_answered_alike(
    settings: ChassisSettings, app: FastAPI, http: AsyncClient
) -> None:
    """On SQLite it waits for its turn to write; it has another engine, as another process has."""
    async with started(create_stock(settings, router)) as other:
        first = asyncio.create_task(http.post("/v1/slow?seconds=1", headers=KEY))
        await asyncio.sleep(0.2)
        second = await other.post("/v1/slow?seconds=1", headers=KEY)
        if settings.database_target.backend == "sqlite":
            assert second.status_code == 200
        else:
            assert second.status_code == 409
            assert not first.done()
        assert (await first).status_code == 200
        assert (await other.post("/v1/slow?seconds=1", headers=KEY)).status_code == 200
    assert await count(app) == 1


@pytest.mark.parametrize("status", [404, 409, 500, 503])
async def test_what_a_handler_raises_keeps_nothing(
    app: FastAPI, http: AsyncClient, status: int
) -> None:
    for _ in range(2):
        answer = await http.post(f"/v1/failures/{status}", headers=KEY)
        assert answer.status_code == status
        assert "idempotent-replayed" not in answer.headers
    assert await count(app) == await count(app, IdempotencyKey) == 0


async def test_a_body_that_is_not_valid_keeps_nothing(app: FastAPI, http: AsyncClient) -> None:
    assert (await http.post("/v1/items", json={"name": 1}, headers=KEY)).status_code == 422
    assert (await http.post("/v1/items", json={}, headers=KEY)).status_code == 201


async def test_a_cancelled_request_keeps_nothing_and_frees_its_key(
    settings: ChassisSettings,
) -> None:
    create_tables(settings)
    app = create_stock(changed(settings, http_request_timeout_seconds=0.2), router)
    async with started(app) as http:
        assert (await http.post("/v1/slow?seconds=9", headers=KEY)).status_code == 504
        answer = await http.post("/v1/slow?seconds=0", headers=KEY)
        assert answer.status_code == 200
        assert "idempotent-replayed" not in answer.headers
        assert await count(app) == 1


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_commit_without_the_answer_is_refused(
    app: FastAPI, http: AsyncClient, how: str
) -> None:
    logged = await bug_of(app, f"/v1/forgetful/{how}")
    assert "POST /v1/forgetful/{how} commits without its answer" in logged
    assert await count(app) == (how == "after")


async def test_a_form_is_known_by_its_fields_whatever_its_boundary(
    settings: ChassisSettings,
) -> None:
    pytest.importorskip("python_multipart", reason="FastAPI reads forms with it")
    create_tables(settings)
    forms = APIRouter()
    forms.post("/forms")(take_form)
    app = create_stock(settings, forms)

    async with started(app) as http:

        async def send(name: str, content: bytes) -> tuple[int, Any]:
            files = {"file": ("a.txt", content)}
            answer = await http.post("/forms", data={"name": name}, files=files, headers=KEY)
            return answer.status_code, answer.json()

        assert await send("bolt", b"one") == await send("bolt", b"one") == (200, ["bolt", "one"])
        assert (await send("nut", b"one"))[0] == (await send("bolt", b"two"))[0] == 422
        assert await count(app) == 1


async def test_old_answers_go_a_few_at_a_time_and_count_no_more(
    settings: ChassisSettings,
) -> None:
    create_tables(settings)
    app = create_stock(changed(settings, http_idempotency_hours=2), router)
    async with started(app) as http:
        for _ in range(2):
            await http.post("/v1/others", headers=KEY)
        assert await count(app) == 1
        async with session_scope(app.state.sessions.write) as session:
            old = datetime.now(UTC) - timedelta(hours=3)
            await session.execute(update(IdempotencyKey).values(created_at=old))
            kept = (await session.scalars(select(IdempotencyKey))).one()
            row = {"fingerprint": "", "status": 200, "headers": [], "body": b""}
            rows = [row | {"digest": f"{n}", "created_at": kept.created_at} for n in range(24)]
            await session.execute(insert(IdempotencyKey), rows)
            await session.commit()
        for left in (15, 6):
            answer = await http.post("/v1/others", headers=KEY | {"X-User": f"{left}"})
            assert answer.status_code == 201
            assert await count(app, IdempotencyKey) == left + 1


async def test_an_old_answer_that_another_transaction_holds_is_not_waited_for(
    settings: ChassisSettings, app: FastAPI, http: AsyncClient
) -> None:
    only_on("postgres", settings)
    await http.post("/v1/others", headers=KEY)
    async with session_scope(app.state.sessions.write) as session:
        old = datetime.now(UTC) - timedelta(hours=25)
        await session.execute(update(IdempotencyKey).values(created_at=old))
        await session.commit()
        await session.execute(select(IdempotencyKey).with_for_update())
        async with asyncio.timeout(2):
            answer = await http.post("/v1/others", headers=KEY | {"X-User": "bob"})
    assert answer.status_code == 201
    assert await count(app, IdempotencyKey) == 2


async def test_an_old_key_is_a_new_one(app: FastAPI, http: AsyncClient) -> None:
    await http.post("/v1/items", json={"name": "bolt"}, headers=KEY)
    async with session_scope(app.state.sessions.write) as session:
        old = datetime.now(UTC) - timedelta(hours=25)
        await session.execute(update(IdempotencyKey).values(created_at=old))
        await session.commit()

    answer = await http.post("/v1/items", json={"name": "nut"}, headers=KEY)
    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers
    assert await count(app) == 2


async def test_a_route_that_changes_nothing_stops_the_start(settings: ChassisSettings) -> None:
    async def read(once: Once) -> None: ...

    async def talk(websocket: WebSocket, once: Once) -> None: ...

    reading, talking = APIRouter(), APIRouter()
    reading.api_route("/items", methods=["GET", "POST"])(read)
    talking.websocket("/items")(talk)
    with pytest.raises(IdempotencyError, match="GET, POST /items takes an Idempotency-Key"):
        await start(create_stock(settings, reading))
    with pytest.raises((IdempotencyError, SessionPlanError), match="websocket"):
        await start(create_stock(settings, talking))


async def start(app: FastAPI) -> None:
    async with started(app):
        pass


@pytest.mark.parametrize("caller", [None, "", Item(), 1.5])
async def test_a_caller_that_is_no_id_is_refused(settings: ChassisSettings, caller: Any) -> None:
    async def find_caller() -> Any:
        return caller

    async def add(once: Annotated[Idempotency, idempotency(caller=find_caller)]) -> Response:
        return await once.commit()

    unnamed = APIRouter()
    unnamed.post("/items")(add)
    create_tables(settings)
    app = create_stock(settings, unnamed)
    async with started(app):
        assert "return the id of who sends the request" in await bug_of(app, "/items")


async def test_a_caller_counts_by_tenant_and_subject(settings: ChassisSettings) -> None:
    async def find_caller(connection: HTTPConnection) -> Caller:
        return Caller(connection.headers["x-user"], tenant=connection.headers["x-tenant"])

    async def add(
        session: DbSession, once: Annotated[Idempotency, idempotency(caller=get_caller)]
    ) -> Response:
        session.add(Item())
        return await once.commit()

    called = APIRouter()
    called.post("/items")(add)
    create_tables(settings)
    app = create_stock(settings, called, authenticators=(find_caller,))
    async with started(app) as client:
        replayed = []
        for user, tenant in (("ada", "a"), ("ada", "b"), ("bob", "a"), ("ada", "a")):
            headers = {"Idempotency-Key": "1", "X-User": user, "X-Tenant": tenant}
            answer = await client.post("/items", headers=headers)
            assert answer.status_code == 200
            replayed.append("Idempotent-Replayed" in answer.headers)

    assert replayed == [False, False, False, True]


async def test_without_callers_all_share_their_keys(settings: ChassisSettings) -> None:
    async def add(
        session: DbSession, once: Annotated[Idempotency, idempotency(caller=None)]
    ) -> Response:
        session.add(Item())
        return await once.commit()

    shared = APIRouter()
    shared.post("/items")(add)
    create_tables(settings)
    app = create_stock(settings, shared)
    async with started(app) as http:
        for user in "ab":
            await http.post("/items", headers=KEY | {"X-User": user})
        assert await count(app) == 1


async def test_a_missing_table_is_told_with_what_to_do(settings: ChassisSettings) -> None:
    app = create_stock(settings, router)
    async with started(app):
        assert "import IdempotencyKey of chassis.idempotency" in await bug_of(app, "/v1/others")


async def test_a_mounted_application_replays_too(settings: ChassisSettings) -> None:
    create_tables(settings)
    inner = FastAPI()
    inner.include_router(router)
    app = create_stock(settings, router)
    app.mount("/inner", inner)
    async with started(app) as http:
        first = await http.post("/inner/v1/items", json={}, headers=KEY)
        again = await http.post("/inner/v1/items", json={}, headers=KEY)
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert (await http.post("/inner/v1/others")).status_code == 400
        # It is another route than the one outside.
        assert (await http.post("/v1/items", json={}, headers=KEY)).status_code == 201
        assert await count(app) == 2


async def test_the_document_has_the_header_and_its_problems(http: AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    for path, required in (("/v1/others", True), ("/v1/optional", False)):
        operation = paths[path]["post"]
        header = operation["parameters"][-1]
        assert (header["name"], header["in"]) == ("Idempotency-Key", "header")
        assert header["required"] is required
        for status in ("400", "409", "422"):
            assert operation["responses"][status]["content"].keys() == {MEDIA_TYPE}


async def test_scripts_of_other_origins_may_send_and_read_it(settings: ChassisSettings) -> None:
    app = create_stock(changed(settings, http_cors_origins=("https://a.example",)), router)
    async with started(app) as http:
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "idempotency-key"
        assert (await http.options("/v1/others", headers=asked)).status_code == 200
        answer = await http.get("/openapi.json", headers={"Origin": "https://a.example"})
        assert "Idempotent-Replayed" in answer.headers["access-control-expose-headers"]


async def test_neither_answer_nor_key_is_logged(
    app: FastAPI, http: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        await http.post("/v1/others", headers=KEY)
    assert "POST" in caplog.text
    assert SECRET not in caplog.text
    assert KEY["Idempotency-Key"] not in caplog.text


async def test_without_a_lock_the_table_keeps_two_from_doing_the_same(
    settings: ChassisSettings,
) -> None:
    """A rollback in the handler releases it, so that another process may begin, too."""
    only_on("postgres", settings)
    create_tables(settings)

    async def add(seconds: float, session: DbSession, once: Once) -> Response:
        await session.rollback()
        session.add(Item())
        await asyncio.sleep(seconds)
        return await once.commit()

    unlocked = APIRouter()
    unlocked.post("/items")(add)
    apps = [create_stock(settings, unlocked) for _ in range(2)]
    async with started(apps[0]) as one, started(apps[1]) as other:
        first = asyncio.create_task(one.post("/items?seconds=0.5", headers=KEY))
        await asyncio.sleep(0.2)
        refusal = await other.post("/items?seconds=0.5", headers=KEY)
        assert ((await first).status_code, refusal.status_code) == (200, 409)
        assert refusal.headers["retry-after"] == "1"
        assert await count(apps[0]) == 1


Again = Annotated[IdempotentTransaction, idempotent_transaction(caller=find_user)]


def create_transactions() -> APIRouter:
    """Build routes whose transaction runs again."""
    attempts: dict[str, int] = {}
    repeated = APIRouter()

    @repeated.post("/repeated", status_code=201)
    async def add_again(once: Again) -> Response:
        async def add(session: AsyncSession) -> int:
            attempts["all"] = attempts.get("all", 0) + 1
            session.add(Item())
            await session.flush()
            if attempts["all"] == 1:
                raise DBAPIError("", (), SerializationError())
            return attempts["all"]

        return await once.run(add)

    @repeated.post("/counted/{name}")
    async def add_if_few(name: str, once: Again) -> Response:
        async def add(session: AsyncSession) -> int:
            found = await session.scalar(select(func.count()).select_from(Item)) or 0
            if found < 3:
                session.add(Item(name=name))
            return found

        return await once.run(add, serializable=True)

    @repeated.post("/hasty")
    async def commit_within(once: Again) -> Response:
        async def add(session: AsyncSession) -> None:
            session.add(Item())
            await session.commit()

        return await once.run(add)

    return repeated


class SerializationError(Exception):
    sqlstate = "40001"


async def test_a_transaction_that_runs_again_has_one_answer(settings: ChassisSettings) -> None:
    create_tables(settings)
    app = create_stock(settings, create_transactions())
    async with started(app) as http:
        first = await http.post("/repeated", headers=KEY)
        again = await http.post("/repeated", headers=KEY)
        assert (first.status_code, first.json()) == (201, 2)
        assert (again.status_code, again.json()) == (201, 2)
        assert again.headers["idempotent-replayed"] == "true"
        assert (await http.post("/repeated")).status_code == 400
        assert await count(app) == await count(app, IdempotencyKey) == 1
        assert "commits without its answer" in await bug_of(app, "/hasty")


async def test_serializable_transactions_hold_their_rule(settings: ChassisSettings) -> None:
    create_tables(settings)
    app = create_stock(settings, create_transactions())
    async with started(app) as http:

        async def add(number: int) -> int:
            while True:
                answer = await http.post(f"/counted/{number}", headers=key_of(number))
                if answer.status_code == 200:
                    return len(answer.content)
                assert answer.status_code == 503, answer.text

        await asyncio.gather(*map(add, [*range(20)]))
        assert await count(app) == 3
        assert await count(app, IdempotencyKey) == 20


def key_of(number: int) -> dict[str, str]:
    return {"Idempotency-Key": f"key-{number}"}
