"""One row as a resource of HTTP: found, versioned, and never changed by who has not seen it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from chassis_stock import create_stock, create_tables, started
from fastapi import APIRouter, HTTPException, Response
from httpx2 import AsyncClient
from pydantic import BaseModel
from sqlalchemy import ForeignKey, MetaData, String
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, relationship, selectinload

from chassis import ChassisSettings
from chassis.db import NAMING_CONVENTION, Base, DbReadSession, DbSession, ReadOnlySessionError
from chassis.db.models import Timestamps, Versioned
from chassis.resources import IfMatch, RequiredIfMatch, etag, get_or_404


class Apart(Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class SalesOrder(Versioned, Timestamps, Apart):
    __tablename__ = "sales_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(String(50), default="")
    lines: Mapped[list["OrderLine"]] = relationship(lazy="raise")


class OrderLine(Apart):
    __tablename__ = "line"

    order_id: Mapped[int] = mapped_column(ForeignKey("sales_order.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class OrderRead(BaseModel):
    id: int
    note: str


router = APIRouter(prefix="/orders")


@router.get("/{order_id}", response_model=OrderRead)
async def read_order(order_id: int, session: DbReadSession, response: Response) -> SalesOrder:
    order = await get_or_404(session, SalesOrder, order_id)
    response.headers["ETag"] = etag(order.version)
    return order


async def change(
    order_id: int, note: str, session: DbSession, response: Response, if_match: IfMatch
) -> SalesOrder:
    order = await get_or_404(session, SalesOrder, order_id)
    if_match.check(order.version)
    order.note = note
    await session.commit()
    response.headers["ETag"] = etag(order.version)
    return order


@router.patch("/{order_id}", response_model=OrderRead)
async def change_order(
    order_id: int, note: str, session: DbSession, response: Response, if_match: RequiredIfMatch
) -> SalesOrder:
    return await change(order_id, note, session, response, if_match)


router.put("/{order_id}", response_model=OrderRead)(change)


@pytest.fixture
async def client(settings: ChassisSettings, session: AsyncSession) -> AsyncIterator[AsyncClient]:
    create_tables(settings, Apart.metadata)
    session.add(SalesOrder(id=1, lines=[OrderLine(number=1), OrderLine(number=2)]))
    await session.commit()
    async with started(create_stock(settings, router)) as client:
        yield client


def named(*tags: str) -> list[tuple[str, str]]:
    return [("If-Match", tag) for tag in tags]


async def test_of_changes_of_one_version_at_once_one_wins(client: AsyncClient) -> None:
    tag = (await client.get("/orders/1")).headers["etag"]
    requests = (
        client.patch("/orders/1", params={"note": str(number)}, headers=named(tag))
        for number in range(20)
    )
    responses = await asyncio.gather(*requests)
    statuses = Counter(response.status_code for response in responses)
    assert statuses.pop(200) == 1
    assert sum(statuses.values()) == 19
    assert statuses.keys() <= {409, 412}
    [winner] = (response for response in responses if response.status_code == 200)
    after = await client.get("/orders/1")
    assert after.json() == winner.json()
    assert after.headers["etag"] == winner.headers["etag"] != tag


async def test_one_that_sends_the_new_version_goes_on(client: AsyncClient) -> None:
    tag = '"1"'
    for number in range(3):
        params = {"note": str(number)}
        response = await client.patch("/orders/1", params=params, headers=named(tag))
        assert response.status_code == 200
        tag = response.headers["etag"]
    assert tag == '"4"'


IF_MATCH = [
    (['"1"'], 200),
    (["*"], 200),
    (['"7", "1"'], 200),
    (['"7"', '"1"'], 200),
    ([',"7" ,,\t"1",'], 200),
    (['"a,b","1"'], 200),
    (['"2"'], 412),
    (['"11"'], 412),
    (['""'], 412),
    # A weak one never matches.
    (['W/"1"'], 412),
    (['W/"1", "1"'], 200),
    (['"1,2"'], 412),
    (['"1, 2"'], 422),
    (['"é"'], 412),
    (["1"], 422),
    (["'1'"], 422),
    (['"1'], 422),
    (['w/"1"'], 422),
    (['"1" "2"'], 422),
    (['"1"x'], 422),
    (['*, "1"'], 422),
    (["*", "*"], 422),
    ([""], 422),
    ([","], 422),
]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_if_match_is_read_as_http_says(
    client: AsyncClient, session: AsyncSession, method: str
) -> None:
    session.add_all([SalesOrder(id=number) for number in range(2, 2 + len(IF_MATCH))])
    await session.commit()
    for number, (lines, status) in enumerate(IF_MATCH, start=2):
        headers = [(b"If-Match", line.encode("latin-1")) for line in lines]
        url = f"/orders/{number}"
        response = await client.request(method, url, params={"note": "x"}, headers=headers)
        assert response.status_code == status, (lines, response.text)
        if status == 412:
            assert response.json()["title"] == "Precondition Failed"
            assert "If-Match" in response.json()["detail"]
        if status == 422:
            [error] = response.json()["errors"]
            assert error["loc"] == ["header", "If-Match"]
            assert 'such as "3"' in error["msg"]


async def test_a_version_that_a_proxy_made_weak_is_told(client: AsyncClient) -> None:
    response = await client.patch("/orders/1", params={"note": "x"}, headers=named('W/"1"'))
    assert response.status_code == 412
    assert response.json()["detail"].startswith("If-Match compares no weak tag (W/): a proxy")
    assert response.json()["detail"].endswith('Send "1".')


async def test_a_long_list_is_read_fast(client: AsyncClient) -> None:
    for line in ('"1",' * 8000, '"' + "1," * 16_000, ", " * 16_000 + "x"):
        async with asyncio.timeout(2):
            await client.put("/orders/1", params={"note": "x"}, headers=named(line))


async def test_a_route_may_demand_it(client: AsyncClient) -> None:
    response = await client.patch("/orders/1", params={"note": "x"})
    assert response.status_code == 428
    assert response.json()["title"] == "Precondition Required"
    assert "If-Match" in response.json()["detail"]
    assert (await client.put("/orders/1", params={"note": "x"})).status_code == 200


async def test_what_is_not_there_is_named(client: AsyncClient) -> None:
    for method in ("GET", "PUT"):
        response = await client.request(
            method, "/orders/9", params={"note": "x"}, headers=named("*")
        )
        assert response.status_code == 404
        assert response.json()["detail"] == "There is no sales order 9."


async def test_relations_are_loaded_with_it(client: AsyncClient, session: AsyncSession) -> None:
    options = [selectinload(SalesOrder.lines)]
    order = await get_or_404(session, SalesOrder, 1, options=options, for_update=True)
    assert [line.number for line in order.lines] == [1, 2]
    for key in ((1, 3), {"order_id": 1, "number": 3}):
        with pytest.raises(HTTPException, match=r"There is no order line 1, 3\."):
            await get_or_404(session, OrderLine, key)


async def test_a_read_session_locks_nothing(client: AsyncClient, settings: ChassisSettings) -> None:
    app_router = APIRouter()

    @app_router.get("/locked")
    async def lock(session: DbReadSession) -> None:
        with pytest.raises(ReadOnlySessionError):
            await get_or_404(session, SalesOrder, 1, for_update=True)

    async with started(create_stock(settings, app_router)) as other:
        assert (await other.get("/locked")).status_code == 200


async def test_the_document_says_so(client: AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]["/orders/{order_id}"]
    for method, required, statuses in (("patch", True, {"412", "428"}), ("put", False, {"412"})):
        [header] = (one for one in paths[method]["parameters"] if one["in"] == "header")
        assert (header["name"], header["required"]) == ("If-Match", required)
        responses = paths[method]["responses"]
        assert responses.keys() & {"412", "428"} == statuses
        assert responses["412"]["content"].keys() == {"application/problem+json"}
        assert responses["200"]["headers"].keys() == {"ETag"}
    assert not paths["get"]["responses"].keys() & {"412", "428"}
