"""Pages by key: each row exactly once, in one order, whatever comes and goes between two pages."""

import json
import random
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import count, product
from typing import Annotated, Any
from uuid import UUID

import pytest
from chassis_stock import changed, create_stock, create_tables, executing, started
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel
from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    UniqueConstraint,
    delete,
    event,
    func,
    insert,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Mapped, aliased, mapped_column, relationship, selectinload

from chassis import ChassisSettings
from chassis.db import NAMING_CONVENTION, Base, DbReadSession, create_session_factory
from chassis.pages import Keyset, Page, PageQuery, PageRequest, keyset, page_query


class Apart(Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Thing(Apart):
    """A row with a key of each type, which other rows have, too."""

    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True)
    small: Mapped[int] = mapped_column(SmallInteger)
    large: Mapped[int | None] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(String(50))
    nick: Mapped[str | None] = mapped_column(String(50))
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    made_at: Mapped[datetime]
    gone_at: Mapped[datetime | None]
    day: Mapped[date | None]
    token: Mapped[UUID | None]
    color: Mapped[Color | None]
    used: Mapped[bool]
    lines: Mapped[list["Line"]] = relationship(lazy="raise", viewonly=True)


START = datetime(2024, 2, 29, 23, 59, 59, 999_998, tzinfo=UTC)
VALUES: dict[str, list[Any]] = {
    "small": [-1, 0, 1],
    "large": [None, -(2**53) - 1, 2**63 - 1],
    "name": ["", "Ä", "a", "B", "z\n\"'\\<>", "日本", "😀"],
    "nick": [None, "a", "B"],
    "price": [Decimal("0.10"), Decimal("0.30"), Decimal("99999999.99")],
    "made_at": [START + timedelta(microseconds=step) for step in range(4)],
    "gone_at": [None, START, START + timedelta(microseconds=1)],
    "day": [None, date(2024, 2, 29), date.max],
    "token": [None, UUID(int=0), UUID(int=2**127)],
    "color": [None, *Color],
    "used": [False, True],
}
NAMES = [*VALUES]


def random_rows(chance: random.Random, ids: range) -> list[dict[str, Any]]:
    return [
        {"id": one} | {name: chance.choice(values) for name, values in VALUES.items()}
        for one in ids
    ]


def random_order(chance: random.Random) -> list[Any]:
    """Return some columns, each in some direction, and the one that tells rows apart."""
    names = chance.sample(NAMES, chance.randint(0, 3))
    order: list[Any] = []
    for name in [*names, "id"]:
        column = getattr(Thing, name)
        part = chance.choice([column, column.asc(), column.desc()])
        order.append(chance.choice([part, part, part.nulls_first(), part.nulls_last()]))
    return order


class ThingRead(BaseModel):
    id: int


class Line(Apart):
    """What a thing has several of."""

    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int] = mapped_column(ForeignKey("things.id"), index=True)
    number: Mapped[int]
    code: Mapped[str | None] = mapped_column(String(9), unique=True)
    ratio: Mapped[float] = mapped_column(default=0.1)
    data: Mapped[bytes] = mapped_column(default=b"")
    info: Mapped[dict[str, Any]] = mapped_column(default=dict)
    thing: Mapped[Thing] = relationship(lazy="raise")
    __table_args__ = (
        UniqueConstraint("thing_id", "number"),
        Index("ix_lines_ratio", "ratio", unique=True, sqlite_where=text("number > 1")),
    )


@asynccontextmanager
async def listing(settings: ChassisSettings, listed: Keyset) -> AsyncIterator[AsyncClient]:
    """Serve a list at `/things`."""
    router = APIRouter()

    @router.get("/things")
    async def list_things(page: PageQuery, session: DbReadSession) -> Page[ThingRead]:
        return await listed.page(session, page)

    async with started(create_stock(settings, router)) as client:
        yield client


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings, Apart.metadata)
    return settings


def fill(settings: ChassisSettings, rows: list[dict[str, Any]]) -> None:
    with executing(settings) as connection:
        connection.execute(insert(Thing), rows)


async def read_all(client: AsyncClient, limit: int, between: Callable[[], Any]) -> list[int]:
    """Follow the links from page to page; call something between each two."""
    found: list[int] = []
    path = f"/things?limit={limit}"
    for _ in range(100):
        response = await client.get(path)
        assert response.status_code == 200, response.text
        page = response.json()
        found += [item["id"] for item in page["items"]]
        assert len(page["items"]) == limit or page["next"] is None
        if page["next"] is None:
            return found
        path = response.links["next"]["url"]
        between()
    pytest.fail("the list does not end")


async def test_what_was_there_all_along_is_found_once_and_in_order(
    settings: ChassisSettings,
) -> None:
    for seed in range(25):
        await check_a_list_that_changes(seed, settings)


async def check_a_list_that_changes(seed: int, settings: ChassisSettings) -> None:
    chance = random.Random(seed)
    rows = random_rows(chance, range(1, 41))
    with executing(settings) as connection:
        connection.execute(delete(Thing))
    fill(settings, rows)
    order = random_order(chance)
    listed = keyset(select(Thing), *order)
    ids, changes = count(1000), count(1)
    gone: set[int] = set()

    def change() -> None:
        """Delete some rows, and insert another anywhere, ten times."""
        if next(changes) > 10:
            return
        removed = chance.sample(range(1, 41), 2)
        gone.update(removed)
        with executing(settings) as connection:
            connection.execute(delete(Thing).where(Thing.id.in_(removed)))
            added = next(ids)
            connection.execute(insert(Thing), random_rows(chance, range(added, added + 1)))

    async with listing(settings, listed) as client:
        sorted_ids = await read_in_one_page(client)
        found = await read_all(client, chance.randint(1, 7), change)
    assert len(found) == len(set(found)), seed
    stayed = [one for one in sorted_ids if one not in gone]
    assert [one for one in found if one in stayed] == stayed, seed


async def read_in_one_page(client: AsyncClient) -> list[int]:
    """Return all ids."""
    page = (await client.get("/things?limit=100")).json()
    assert page["next"] is None
    return [item["id"] for item in page["items"]]


# What an order may be of.

AGAIN = aliased(Thing)
UNIQUE: dict[str, Callable[[], Keyset]] = {
    "a primary key": lambda: keyset(select(Thing), Thing.id),
    "a unique constraint": lambda: keyset(select(Line), Line.number.desc(), Line.thing_id),
    "a table": lambda: keyset(select(Thing.__table__), Thing.__table__.c.id),
    "a row that a join adds": lambda: keyset(select(Line).join(Line.thing), Thing.name, Line.id),
    "the same by WHERE": lambda: keyset(
        select(Line.id, Thing.name).where(Line.thing_id == Thing.id), Thing.name, Line.id
    ),
    "a row that an outer join adds": lambda: keyset(
        select(Line, Thing.name).outerjoin(Thing, Line.thing_id == Thing.id), Thing.name, Line.id
    ),
    "rows that a join repeats": lambda: keyset(select(Thing).join(Thing.lines), Line.id),
    "an alias": lambda: keyset(
        select(Line).join(Line.thing.of_type(AGAIN)), AGAIN.name.desc(), Line.id
    ),
    "an expression": lambda: keyset(
        select(Thing), func.lower(Thing.name, type_=String), Thing.id.desc()
    ),
}


@pytest.mark.parametrize("what", UNIQUE)
def test_an_order_may_be_of(what: str) -> None:
    UNIQUE[what]()


REFUSED: dict[str, tuple[Callable[[], Keyset], type[Exception], str]] = {
    "no order": (lambda: keyset(select(Thing)), ValueError, r"add things\.id to the order"),
    "what is not unique": (
        lambda: keyset(select(Thing), Thing.made_at.desc(), Thing.name),
        ValueError,
        r"several rows may have the same keys.* add things\.id to the order",
    ),
    "a unique column with NULLs": (
        lambda: keyset(select(Line), Line.code),
        ValueError,
        r"add lines\.id",
    ),
    "a part of a unique constraint": (
        lambda: keyset(select(Line), Line.number),
        ValueError,
        r"add lines\.id",
    ),
    "a partial index": (lambda: keyset(select(Line), Line.ratio), ValueError, r"add lines\.id"),
    "rows that a join repeats": (
        lambda: keyset(select(Thing).join(Thing.lines), Thing.id),
        ValueError,
        r"add lines\.id .*EXISTS",
    ),
    "the optional side of a join": (
        lambda: keyset(select(Line).outerjoin(Line.thing), Thing.id),
        ValueError,
        r"add lines\.id",
    ),
    "what only an outer join's condition equates": (
        lambda: keyset(
            select(Thing).join(Line, true()).outerjoin(AGAIN, Line.id == Thing.id), Thing.id
        ),
        ValueError,
        r"add lines\.id",
    ),
    "the alias of a query": (
        lambda: (lambda sub: keyset(select(sub), sub.c.id))(
            select(Thing.id).join(Thing.lines).subquery().alias()
        ),
        ValueError,
        "no primary key",
    ),
    "two tables side by side": (
        lambda: keyset(select(Thing, Line), Thing.id),
        ValueError,
        r"add lines\.id",
    ),
    "a query": (
        lambda: keyset(select(select(Thing).subquery()), text("id")),
        TypeError,
        "an order is of columns",
    ),
    "the column of a query": (
        lambda: (lambda sub: keyset(select(sub), sub.c.id))(select(Thing.id).subquery()),
        ValueError,
        "no primary key",
    ),
    "a name": (lambda: keyset(select(Thing), "id"), TypeError, r"such as Order\.id\.desc\(\)"),
    "a relation": (lambda: keyset(select(Line), Line.thing), TypeError, "an order is of columns"),
    "an unknown type": (
        lambda: keyset(select(Thing), func.lower(Thing.name), Thing.id),
        TypeError,
        "its type is unknown",
    ),
    "bytes": (lambda: keyset(select(Line), Line.data, Line.id), TypeError, "LargeBinary"),
    "JSON": (lambda: keyset(select(Line), Line.info, Line.id), TypeError, "JSON"),
    "another order": (
        lambda: keyset(select(Thing).order_by(Thing.name), Thing.id),
        ValueError,
        r"leave order_by\(\) out",
    ),
    "a limit": (
        lambda: keyset(select(Thing).limit(3), Thing.id),
        ValueError,
        r"leave limit\(\) out",
    ),
    "an offset": (
        lambda: keyset(select(Thing).offset(3), Thing.id),
        ValueError,
        r"leave offset\(\) out",
    ),
    "groups": (
        lambda: keyset(select(Thing.used, func.count()).group_by(Thing.used), Thing.used),
        ValueError,
        r"leave group_by\(\) out.*scalar_subquery",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_order_is_refused_of(what: str) -> None:
    make, error, says = REFUSED[what]
    with pytest.raises(error, match=rf"(?s)^keyset\(….*{says}"):
        make()


def test_a_page_has_a_size() -> None:
    for default, maximum in ((0, 10), (20, 10)):
        with pytest.raises(ValueError, match=r"^page_query\("):
            page_query(default, maximum)


# The order.


@pytest.mark.parametrize(
    ("part", "ids"),
    [
        (Thing.nick, [2, 3, 1, 4]),
        (Thing.nick.desc(), [1, 4, 3, 2]),
        (Thing.nick.nulls_first(), [1, 4, 2, 3]),
        (Thing.nick.desc().nulls_last(), [3, 2, 1, 4]),
    ],
)
async def test_nulls_are_at_the_same_end_on_both_databases(
    settings: ChassisSettings, part: Any, ids: list[int]
) -> None:
    row = random_rows(random.Random(0), range(1))[0]
    nicks = enumerate([None, "a", "b", None], start=1)
    fill(settings, [row | {"id": one, "nick": nick} for one, nick in nicks])
    async with listing(settings, keyset(select(Thing), part, Thing.id)) as client:
        assert await read_all(client, 1, lambda: None) == ids


async def test_a_row_that_an_outer_join_does_not_find_has_nulls(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    fill(settings, random_rows(random.Random(0), range(1, 4)))
    session.add_all(
        [Line(id=one, thing_id=1 + one // 4, number=one, ratio=one) for one in range(8)]
    )
    await session.commit()
    found = AGAIN.small.is_not(None) & (AGAIN.id == Line.thing_id) & (Line.number % 2 == 0)
    for name in (AGAIN.name, AGAIN.name.desc()):
        lines = keyset(select(Line.id, AGAIN.name).outerjoin(AGAIN, found), name, Line.id)
        async with listing(settings, lines) as client:
            ids = await read_all(client, 3, lambda: None)
        assert sorted(ids) == [*range(8)]
        unmatched = [one for one in ids if one % 2]
        assert unmatched == [1, 3, 5, 7]
        assert ids.index(1) == (4 if name is AGAIN.name else 0)


def test_an_alias_that_another_statement_had_first_is_as_unique() -> None:
    other = aliased(Thing)
    select(other)
    found = other.id == Line.thing_id
    keyset(select(Line.id, other.name).outerjoin(other, found), other.name, Line.id)


FORMS = {
    # Written by other means than the chassis: a form of their own, or a sum's binary digits.
    "sqlite": [
        "UPDATE things SET made_at = '2024-02-29 23:59:59'",
        "UPDATE things SET price = 0.1 + 0.2",
    ],
    # What asyncpg reads as one and the same.
    "postgres": [
        "UPDATE things SET made_at = '9999-12-31 23:59:59.999999+00'",
        "UPDATE things SET made_at = 'infinity'",
        "UPDATE things SET price = 'NaN'",
    ],
}


@pytest.mark.parametrize("way", ["asc", "desc"])
async def test_what_python_rounds_ends_no_list_and_repeats_none(
    settings: ChassisSettings, way: str
) -> None:
    fill(settings, random_rows(random.Random(1), range(1, 8)))
    order = [getattr(part, way)() for part in (Thing.price, Thing.made_at, Thing.id)]
    for form in FORMS[settings.database_target.backend]:
        with executing(settings) as connection:
            connection.execute(text(form))
            connection.execute(text("UPDATE things SET price = 1 WHERE id = 3"))
        async with listing(settings, keyset(select(Thing.id, Thing.small), *order)) as client:
            assert sorted(await read_all(client, 2, lambda: None)) == [*range(1, 8)]


WHOLE = PageRequest(None, 3, Request({"type": "http"}), Response())


async def test_items_are_entities_values_or_rows(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    fill(settings, random_rows(random.Random(0), range(1, 4)))
    session.add_all([Line(id=one, thing_id=one, number=1, ratio=one) for one in range(1, 4)])
    await session.commit()
    listed = keyset(select(Thing).options(selectinload(Thing.lines)), Thing.id)
    found = await listed.page(session, WHOLE)
    assert [(one.id, [line.number for line in one.lines]) for one in found.items] == [
        (1, [1]),
        (2, [1]),
        (3, [1]),
    ]
    assert (await keyset(select(Thing.id), Thing.id.desc()).page(session, WHOLE)).items == [3, 2, 1]
    rows = keyset(select(Thing.id, Line.number.label("line")).join(Thing.lines), Line.id)
    found = await rows.where(Thing.id != 2).page(session, WHOLE)
    assert found.items == [{"id": 1, "line": 1}, {"id": 3, "line": 1}]


# Cursors.

BY_ALL = keyset(
    select(Thing),
    *(getattr(Thing, name) for name in NAMES),
    Thing.id.desc(),
)


def encode(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def decode(cursor: str) -> list[Any]:
    found: list[Any] = json.loads(urlsafe_b64decode(cursor + "==="))
    return found


ODD: list[Any] = [
    *(0, -1, 2**31, 2**63 - 1, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), True, None),
    *("", "a", "\0", "\ud800", "NaN", "-Infinity", "1e999999999", "9" * 2000, "now", "infinity"),
    *("2024-02-30", "2024-01-01 00:00+99:99", "2024-01-01 Moon/Sea", "24:00", "purple", "'; --"),
    *([], [1], {}, {"a": 1}, "x" * 3000),
]


async def test_no_cursor_is_a_bug(settings: ChassisSettings) -> None:
    """A thousand of them: each is a page of this list, or a 422 that names the parameter."""
    chance = random.Random(0)
    fill(settings, random_rows(chance, range(1, 21)))
    seen = set()
    async with listing(settings, BY_ALL) as client:
        right = (await client.get("/things?limit=5")).json()["next"]
        for _ in range(1000):
            response = await client.get("/things", params={"cursor": spoil(right, chance)})
            seen.add(response.status_code)
            if response.status_code != 200:
                assert response.status_code == 422, response.text
                assert response.json()["errors"][0]["loc"] == ["query", "cursor"]
    assert seen == {200, 422}


def spoil(cursor: str, chance: random.Random) -> str:
    """Return a cursor that is cut, changed, too long, of other values, or nothing of the kind."""
    values = decode(cursor)
    place = chance.randrange(len(values))
    match chance.randrange(7):
        case 0:
            return cursor[: chance.randrange(len(cursor))]
        case 1:
            place = chance.randrange(len(cursor))
            return cursor[:place] + chance.choice("aZ0-_=+/ \0é") + cursor[place + 1 :]
        case 2:
            return encode([*values[:place], chance.choice(ODD), *values[place + 1 :]])
        case 3:
            return encode([values[0], *(chance.choice(ODD) for _ in values[1:])])
        case 4:
            return encode(chance.choice([values[:place], [*values, 1], {}, 5, "a", None]))
        case 5:
            return cursor * chance.randint(2, 50)
        case _:
            return chance.choice(["", "null", "=", "%", "W" * 4096, "[" * 4000, "-" * 9000])


async def test_a_value_that_no_column_holds_is_no_bug(settings: ChassisSettings) -> None:
    """Alone, too: in many keys, one of them could be refused before the others are tried."""
    fill(settings, random_rows(random.Random(0), range(1, 3)))
    by = {name: keyset(select(Thing), getattr(Thing, name), Thing.id) for name in NAMES}
    router = APIRouter()

    @router.get("/things")
    async def list_things(page: PageQuery, session: DbReadSession, order: str) -> Page[ThingRead]:
        return await by[order].page(session, page)

    async with started(create_stock(settings, router)) as client:
        for name in NAMES:
            query = {"order": name, "limit": "1"}
            values = decode((await client.get("/things", params=query)).json()["next"])
            for odd in ODD:
                cursor = encode([values[0], odd, values[2]])
                response = await client.get("/things", params=query | {"cursor": cursor})
                assert response.status_code in (200, 422), (name, odd, response.text)


async def test_a_cursor_of_another_order_is_refused(settings: ChassisSettings) -> None:
    fill(settings, random_rows(random.Random(0), range(1, 4)))
    async with listing(settings, keyset(select(Thing), Thing.small, Thing.id)) as client:
        cursor = (await client.get("/things?limit=1")).json()["next"]
        assert (await client.get(f"/things?cursor={cursor}")).status_code == 200
    for other in ((Thing.small.desc(), Thing.id), (Thing.id, Thing.small)):
        async with listing(settings, keyset(select(Thing), *other)) as client:
            problem = (await client.get(f"/things?cursor={cursor}")).json()
        assert problem["status"] == 422
        assert problem["errors"] == [
            {
                "type": "cursor",
                "loc": ["query", "cursor"],
                "msg": "this list gave no such cursor: send `next` of its page before, or none",
            }
        ]


async def test_a_value_of_a_filter_is_not_the_cursors_fault(settings: ChassisSettings) -> None:
    router = APIRouter()
    by_id = keyset(select(Thing), Thing.id)

    @router.get("/things")
    async def list_things(page: PageQuery, session: DbReadSession, small: int) -> Page[ThingRead]:
        return await by_id.where(Thing.small == small).page(session, page)

    async with started(create_stock(settings, router)) as client:
        problem = (await client.get(f"/things?small={2**70}")).json()
    assert (problem["status"], "errors" in problem) == (422, False)


async def test_a_cursor_that_could_not_be_sent_is_an_error(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    rows = random_rows(random.Random(0), range(1, 3))
    fill(settings, [row | {"name": "x"} for row in rows])
    long = func.replace(Thing.name, "x", "y" * 4096, type_=String)
    listed = keyset(select(Thing), long, Thing.id)
    with pytest.raises(ValueError, match=r"4096 is the most: order by shorter columns than repl"):
        await listed.page(session, replace(WHOLE, limit=1))


# Over HTTP.


async def test_the_link_keeps_the_path_and_the_other_parameters(settings: ChassisSettings) -> None:
    router = APIRouter()
    by_id = keyset(select(Thing), Thing.id)

    @router.get("/a/{name}/things")
    async def list_things(
        page: PageQuery, session: DbReadSession, name: str, response: Response
    ) -> Page[ThingRead]:
        response.headers["Link"] = '</style.css>; rel="preload"'
        return await by_id.page(session, page)

    fill(settings, random_rows(random.Random(0), range(1, 4)))
    app = create_stock(settings, router)
    mounted = FastAPI()
    mounted.include_router(router)
    app.mount("/mounted", mounted)
    paths = ["/a/%C3%A9%0D%0AX:%20y/things", "/mounted/a/%3E%3Ca%3Fb%23/things"]
    query = "tag=1&tag=%26%20%2B&empty=&limit=2"
    async with started(app) as client:
        for path in paths:
            response = await client.get(f"{path}?cursor=&cursor=&{query}")
            assert response.status_code == 422
            response = await client.get(f"{path}?{query}")
            style, link = response.headers.get_list("Link")
            assert style == '</style.css>; rel="preload"'
            cursor = response.json()["next"]
            sent = "tag=1&tag=%26+%2B&empty=&limit=2"
            assert link == f'<{path.replace(":", "%3A")}?{sent}&cursor={cursor}>; rel="next"'
            response = await client.get(link[1:].partition(">")[0])
            assert [item["id"] for item in response.json()["items"]] == [3]
            assert response.headers.get_list("Link") == [style]


@pytest.mark.parametrize("path", ["/shop/things", "/things", "/shopping/things"])
async def test_the_link_has_the_prefix_that_a_proxy_takes_off(
    settings: ChassisSettings, path: str
) -> None:
    """A server puts it before the path that arrives, or it does not."""
    fill(settings, random_rows(random.Random(0), range(1, 3)))
    router = APIRouter()
    by_id = keyset(select(Thing), Thing.id)

    @router.get("/things")
    @router.get("/shopping/things")
    async def list_things(page: PageQuery, session: DbReadSession) -> Page[ThingRead]:
        return await by_id.page(session, page)

    app = create_stock(settings, router)
    async with app.router.lifespan_context(app):
        transport = ASGITransport(app, root_path="/shop")
        async with AsyncClient(transport=transport, base_url="http://testserver") as client:
            response = await client.get(f"{path}?limit=1")
    expected = path if path.startswith("/shop/") else f"/shop{path}"
    assert response.links["next"]["url"].startswith(f"{expected}?limit=1&cursor=")


async def test_a_script_of_another_origin_may_read_the_link(settings: ChassisSettings) -> None:
    origin = "https://app.example.com"
    by_id = keyset(select(Thing), Thing.id)
    async with listing(changed(settings, http_cors_origins=[origin]), by_id) as client:
        response = await client.get("/things", headers={"Origin": origin})
    assert "Link" in response.headers["access-control-expose-headers"].split(", ")


async def test_pages_are_documented(settings: ChassisSettings) -> None:
    router = APIRouter()
    by_id = keyset(select(Thing), Thing.id)

    @router.get("/things")
    async def list_things(page: PageQuery, session: DbReadSession) -> Page[ThingRead]:
        return await by_id.page(session, page)

    @router.get("/many")
    async def list_many(
        page: Annotated[PageRequest, Depends(page_query(200, 1000))], session: DbReadSession
    ) -> Page[dict[str, Any]]:
        return await by_id.page(session, page)

    async with started(create_stock(settings, router)) as client:
        document = (await client.get("/openapi.json")).json()
        assert (await client.get("/many?limit=1000")).json() == {"items": [], "next": None}
        for limit in ("0", "101", "-1", "a"):
            assert (await client.get(f"/things?limit={limit}")).status_code == 422
    operation = document["paths"]["/things"]["get"]
    cursor, limit_ = operation["parameters"]
    assert (cursor["name"], cursor["required"], limit_["name"]) == ("cursor", False, "limit")
    assert limit_["schema"] | {"title": ""} == {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "default": 50,
        "title": "",
        "description": "How many items a page has at most.",
    }
    assert operation["responses"]["422"]["content"].keys() == {"application/problem+json"}
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ThingReadPage"}
    schema = document["components"]["schemas"]["ThingReadPage"]
    assert schema["required"] == ["items", "next"]
    assert document["paths"]["/many"]["get"]["parameters"][1]["schema"]["maximum"] == 1000


# Plans.


class Event(Apart):
    """A row of many."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[int]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        Index(None, "at", "id"),
        Index(None, "ended_at", "id"),
        Index(None, "kind", "at", "id"),
    )


Index("ix_events_mixed", Event.kind, Event.at.desc(), Event.id)
# Three at each moment, of three kinds, and each second one has no end.
MANY_EVENTS = """
    INSERT INTO events (id, at, kind, ended_at)
    WITH RECURSIVE numbers (n) AS (
        SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 30000
    )
    SELECT n, {moment}, n % 3, CASE WHEN n % 2 = 0 THEN {moment} END FROM numbers
"""
MOMENTS = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 1700000000 + n / 3, 'unixepoch')",
    "postgres": "to_timestamp(1700000000 + n / 3)",
}
PLANNED: dict[str, list[Any]] = {
    "newest first": [Event.at.desc(), Event.id.desc()],
    "few values, in one direction": [Event.kind.desc(), Event.at.desc(), Event.id.desc()],
    "directions that differ": [Event.kind, Event.at.desc(), Event.id],
    "NULLs at the end": [Event.ended_at, Event.id],
    "NULLs at the beginning": [Event.ended_at.desc(), Event.id.desc()],
}


async def test_the_index_serves_the_last_page_as_it_serves_the_first(
    settings: ChassisSettings, read_engine: AsyncEngine
) -> None:
    backend = settings.database_target.backend
    with executing(settings) as connection:
        connection.execute(text(MANY_EVENTS.format(moment=MOMENTS[backend]).replace(":", r"\:")))
        connection.execute(text("ANALYZE"))
    sent: list[tuple[str, Any]] = []

    @event.listens_for(read_engine.sync_engine, "before_cursor_execute")
    def note_statement(*arguments: Any) -> None:
        sent.append(arguments[2:4])

    first = PageRequest(None, 1, Request({"type": "http", **SCOPE}), Response())
    async with create_session_factory(settings, read_engine)() as session:
        for (what, order), rows_before in product(PLANNED.items(), (0, 7_000, 14_900, 22_000)):
            listed, skipping = (keyset(select(Event), *order) for _ in range(2))
            skipping._statement = skipping._statement.offset(rows_before)
            cursor = (await skipping.page(session, first)).next
            sent.clear()
            await listed.page(session, replace(first, cursor=cursor if rows_before else None))
            [(statement, values)] = list(sent)
            plan = f"{what}: {await explain(session, statement, values)}"
            assert "ix_events_" in plan, plan
            assert not re.search("sort|b-tree", plan, re.IGNORECASE), plan
            assert not rows_before or re.search("Index Cond|SEARCH", plan), plan
            # Rows are compared, or those of the same first key would be read from their beginning.
            assert not (rows_before and "one direction" in what) or re.search(
                r"ROW\(|\(\(kind,", plan
            )


SCOPE: dict[str, Any] = {"path": "/events", "query_string": b"", "headers": []}


async def explain(session: AsyncSession, statement: str, values: Any) -> str:
    """Return the plan of a statement as it was sent, with the values of its parameters."""
    command = "EXPLAIN" if "$1" in statement else "EXPLAIN QUERY PLAN"
    connection = await session.connection()
    rows = await connection.exec_driver_sql(f"{command} {statement}", values)
    return "\n".join(str(row[-1]) for row in rows)
