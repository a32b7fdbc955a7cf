"""Rows of tenants: one tenant's alone, whichever way a session asks for them or changes them."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any
from uuid import uuid4

import pytest
from chassis_logins import administered
from chassis_stock import create_stock, create_tables, only_on, started
from fastapi import APIRouter, BackgroundTasks, Depends, Header
from fastapi.responses import StreamingResponse
from pydantic import SecretStr
from sqlalchemy import (
    ForeignKey,
    MetaData,
    String,
    UniqueConstraint,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    Mapped,
    aliased,
    column_property,
    contains_eager,
    joinedload,
    make_transient_to_detached,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
    undefer,
)

from chassis import ChassisSettings
from chassis.db import (
    NAMING_CONVENTION,
    Base,
    DbSessions,
    Sessions,
    open_sessions,
    run_transaction,
)
from chassis.db import session_scope as open_session
from chassis.db.tenants import (
    RowSecured,
    Tenanted,
    TenantError,
    all_tenants,
    check_row_security,
    current_tenant,
    tenant_scope,
)
from chassis.db.tenants.sent_sql import check_sql


class Apart(Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Tag(Apart):
    """What all tenants share."""

    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    bills: Mapped[list["Bill"]] = relationship(viewonly=True, lazy="raise")


class Client(Tenanted, Apart):
    __tablename__ = "clients"
    __table_args__ = (UniqueConstraint("tenant", "name"), UniqueConstraint("code"))

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    code: Mapped[str | None] = mapped_column(String(20))
    bills: Mapped[list["Bill"]] = relationship(back_populates="client", order_by="Bill.id")


class Bill(Tenanted, Apart):
    __tablename__ = "bills"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(9), default="bill")
    total: Mapped[int] = mapped_column(default=0)
    note: Mapped[str] = mapped_column(String(20), default="x", deferred=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("clients.id"))
    tag_id: Mapped[int] = mapped_column(ForeignKey("tags.id"), default=1)
    client: Mapped[Client] = relationship(back_populates="bills")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "bill"}  # noqa: RUF012


class Refund(Bill):
    reason: Mapped[str | None] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "refund"}  # noqa: RUF012


Client.bill_count = column_property(
    select(func.count(Bill.id)).where(Bill.client_id == Client.id).scalar_subquery(), deferred=True
)


class Letter(RowSecured, Apart):
    __tablename__ = "letters"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(20))


BILLS = Apart.metadata.tables["bills"]
# Of each tenant: a client, with bills of both tenants, as a forgotten foreign key would have it.
ROWS: list[tuple[type[Any], dict[str, Any]]] = [
    (Client, {"tenant": "a", "name": "ann"}),
    (Client, {"tenant": "b", "name": "ann"}),
    (Bill, {"tenant": "a", "client_id": 1}),
    (Refund, {"tenant": "b", "client_id": 1}),
    (Bill, {"tenant": "b", "client_id": 2}),
    (Bill, {"tenant": "a", "client_id": 2}),
    (Refund, {"tenant": "a", "client_id": 2}),
]
OWN = {"a": [1, 4, 5], "b": [2, 3]}
Alias = aliased(Bill)
Read = Callable[[AsyncSession], Awaitable[Any]]


@pytest.fixture
async def sessions(settings: ChassisSettings) -> AsyncIterator[Sessions]:
    create_tables(settings, Apart.metadata)
    async with open_sessions(settings) as sessions:
        with all_tenants():
            async with open_session(sessions.write) as session:
                await session.execute(insert(Tag).values(id=1))
                for model, fields in ROWS:
                    session.add(model(**fields))
                    await session.flush()
                await session.commit()
        yield sessions


def ids_of(statement: Any) -> Read:
    """Return what reads the numbers of a statement."""

    async def read(session: AsyncSession) -> list[int]:
        return sorted((await session.scalars(statement)).unique().all())

    return read


def bills_of(*options: Any) -> Read:
    """Return what reads the bills of all clients that are seen, with loader options."""

    async def read(session: AsyncSession) -> list[int]:
        found = (await session.scalars(select(Client).options(*options))).unique().all()
        return sorted(bill.id for client in found for bill in client.bills)

    return read


# Of both tenants, what each sees.
READS: dict[str, tuple[Read, list[int], list[int]]] = {
    "columns": (ids_of(select(Bill.id)), [1, 4, 5], [2, 3]),
    "an alias": (ids_of(select(Alias.id)), [1, 4, 5], [2, 3]),
    "a subclass": (ids_of(select(Refund.id)), [5], [2]),
    "a count": (ids_of(select(func.count()).select_from(Bill)), [3], [2]),
    "a subquery": (ids_of(select(func.count()).select_from(select(Bill).subquery())), [3], [2]),
    "an alias of one": (
        ids_of(select(aliased(Bill, select(Bill).subquery()).id)),
        [1, 4, 5],
        [2, 3],
    ),
    "a CTE": (ids_of(select(select(Bill.id).cte().c.id)), [1, 4, 5], [2, 3]),
    "a union": (ids_of(union_all(select(Bill.id), select(Alias.id))), [1, 4, 5], [2, 3]),
    "a join": (ids_of(select(Bill.id).join(Bill.client)), [1], [3]),
    "an outer join": (ids_of(select(Bill.id).outerjoin(Bill.client)), [1, 4, 5], [2, 3]),
    "a join from what is shared": (
        ids_of(select(Bill.id).select_from(Tag).join(Bill, Bill.tag_id == Tag.id)),
        [1, 4, 5],
        [2, 3],
    ),
    "a cross join": (ids_of(select(Bill.id).where(Bill.client_id == Client.id)), [1], [3]),
    "any": (ids_of(select(Client.id).where(Client.bills.any(Bill.id == 3))), [], [2]),
    "has": (ids_of(select(Bill.id).where(Bill.client.has(Client.id == 2))), [], [3]),
    "exists": (ids_of(select(Tag.id).where(exists().where(Bill.id == 3))), [], [1]),
    "in": (ids_of(select(Tag.id).where(Tag.id.in_(select(Bill.tag_id)))), [1], [1]),
    "a scalar subquery": (ids_of(select(select(func.max(Bill.id)).scalar_subquery())), [5], [3]),
    "text in a condition": (ids_of(select(Bill.id).where(text("1 = 1"))), [1, 4, 5], [2, 3]),
    "joinedload": (bills_of(joinedload(Client.bills)), [1], [3]),
    "selectinload": (bills_of(selectinload(Client.bills)), [1], [3]),
    "subqueryload": (bills_of(subqueryload(Client.bills)), [1], [3]),
}


@pytest.mark.parametrize("factory", ["write", "read"])
async def test_a_session_reads_the_rows_of_its_tenant(sessions: Sessions, factory: str) -> None:
    for name, (read, *expected) in READS.items():
        for _ in range(2):  # of the cache of statements, too
            for tenant, ids in zip("ab", expected, strict=True):
                with tenant_scope(tenant):
                    async with open_session(getattr(sessions, factory)) as session:
                        assert await read(session) == ids, name
        async with open_session(getattr(sessions, factory)) as session:
            with pytest.raises(TenantError, match="without a tenant"):
                await read(session)


async def test_a_key_of_another_tenant_is_not_found(sessions: Sessions) -> None:
    with tenant_scope("a"):
        async with open_session(sessions.write) as session:
            assert await session.get(Bill, 3) is None
            assert await session.get(Bill, 3, with_for_update=True) is None
            own = await session.get_one(Bill, 1, options=[undefer(Bill.note)])
            await session.refresh(own)
            await session.refresh(own, ["note", "client"])
            assert own.client.id == 1
            make_transient_to_detached(other := Bill(id=3))
            session.add(other)
            with pytest.raises(TenantError, match="another tenant"):
                await session.refresh(other)


async def test_what_was_loaded_can_be_pickled(sessions: Sessions) -> None:
    with tenant_scope("a"):
        async with open_session(sessions.read) as session:
            bill = await session.get_one(Bill, 1)
            again = pickle.loads(pickle.dumps(bill))
        assert (again.id, again.tenant) == (1, "a")


async def test_what_is_loaded_later_is_of_the_tenant_too(sessions: Sessions) -> None:
    with tenant_scope("b"):
        async with open_session(sessions.write) as session:
            client = await session.get_one(Client, 2, options=[undefer(Client.bill_count)])  # type: ignore[attr-defined]
            assert client.bill_count == 1  # type: ignore[attr-defined]
            await session.refresh(client, ["bills"])
            assert [bill.id for bill in client.bills] == [3]
            joined = select(Client).join(Client.bills).options(contains_eager(Client.bills))
            (found,) = (await session.scalars(joined)).unique()
            assert [bill.id for bill in found.bills] == [3]
            stream = await session.stream_scalars(select(Bill.id).order_by(Bill.id))
            assert [each async for each in stream] == [2, 3]


async def test_new_rows_belong_to_the_tenant(sessions: Sessions) -> None:
    rows = [{"client_id": 1}, {"client_id": 1}]
    with tenant_scope("a"):
        async with open_session(sessions.write) as session:
            session.add(bill := Bill(client_id=1))
            await session.flush()
            assert bill.tenant == "a"
            await session.refresh(bill)
            for statement in (insert(Bill), insert(BILLS)):
                await session.execute(statement, rows)
                await session.execute(statement.values(client_id=1))
                await session.execute(statement.values(rows))
            copied = select(Bill.client_id).where(Bill.id == 1)
            await session.execute(insert(Bill).from_select(["client_id"], copied))
            await session.commit()
            assert await session.scalar(select(func.count(Bill.id))) == 3 + 1 + 2 * 5 + 1
    with tenant_scope("b"):
        async with open_session(sessions.read) as session:
            assert await ids_of(select(Bill.id))(session) == OWN["b"]


async def add_other(session: AsyncSession) -> None:
    session.add(Bill(client_id=1, tenant="b"))
    await session.flush()


async def move(session: AsyncSession) -> None:
    (await session.get_one(Bill, 1)).tenant = "b"
    await session.flush()


async def change_detached(session: AsyncSession) -> None:
    make_transient_to_detached(other := Bill(id=3, tenant="b", total=0))
    session.add(other)
    other.total = 9
    await session.flush()


async def delete_detached(session: AsyncSession) -> None:
    make_transient_to_detached(other := Bill(id=3, tenant="b"))
    await session.delete(other)
    await session.flush()


def execute(statement: Any, parameters: Any = None) -> Read:
    async def run(session: AsyncSession) -> Any:
        return await session.execute(statement, parameters)

    return run


async def use_connection(session: AsyncSession) -> None:
    await (await session.connection()).execute(select(BILLS.c.id))


def insert_of(session: AsyncSession) -> Any:
    """Return the `insert` of a session's database, which has upserts."""
    return {"sqlite": sqlite, "postgresql": postgresql}[session.get_bind().dialect.name].insert


def upsert(**target: Any) -> Read:
    async def run(session: AsyncSession) -> None:
        row = insert_of(session)(Client).values(id=9, name="x", code="c")
        await session.execute(row.on_conflict_do_update(set_={"name": "y"}, **target))

    return run


REFUSED: dict[str, Read] = {
    "a new object of another": add_other,
    "a new tenant": move,
    "an object of another": change_detached,
    "an object of another, deleted": delete_detached,
    "rows of another": execute(insert(Bill), [{"client_id": 1, "tenant": "b"}]),
    "values of another": execute(insert(BILLS).values(client_id=1, tenant="b")),
    "a move of all": execute(update(Bill).values(tenant="b")),
    "another in a condition": execute(select(Bill.id).where(Bill.tenant == "b")),
    "rows by their keys": execute(update(Bill), [{"id": 1, "total": 1}, {"id": 3, "total": 1}]),
    "UPDATE … FROM": execute(update(Bill).values(total=1).where(Bill.client_id == Client.id)),
    "the table": execute(select(BILLS.c.id)),
    "its alias": execute(select(BILLS.alias().c.id)),
    "an UPDATE of it": execute(update(BILLS).values(total=1)),
    "a DELETE of it": execute(delete(BILLS).where(BILLS.c.id == 3)),
    "the table within": execute(select(Client.id).where(Client.id.in_(select(BILLS.c.client_id)))),
    "the table, joined": execute(select(Client.id).join(BILLS, BILLS.c.client_id == Client.id)),
    "SQL": execute(text("SELECT id FROM Bills")),
    "SQL of entities": execute(select(Bill).from_statement(text("SELECT * FROM bills"))),
    "SQL that changes": execute(text("UPDATE bills SET total = 1 WHERE id = 3")),
    "the connection": use_connection,
    "an upsert by a key of all": upsert(index_elements=["code"]),
    "an upsert by the primary key": upsert(index_elements=[Client.id]),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_kept_to_the_tenant_is_refused(sessions: Sessions, name: str) -> None:
    with tenant_scope("a"):
        async with open_session(sessions.write) as session:
            with pytest.raises(TenantError):
                await REFUSED[name](session)


async def test_each_upsert_by_a_key_with_the_tenant_is_of_its_own(sessions: Sessions) -> None:
    for tenant in "ab":
        with tenant_scope(tenant):
            async with open_session(sessions.write) as session:
                row = insert_of(session)(Client).values(name="ann")
                by = ["tenant", "name"]
                await session.execute(
                    row.on_conflict_do_update(index_elements=by, set_={"code": tenant})
                )
                await session.commit()
                assert await session.scalar(select(Client.code)) == tenant


async def test_statements_change_the_rows_of_the_tenant(sessions: Sessions) -> None:
    with tenant_scope("a"):
        async with open_session(sessions.write) as session:
            await session.execute(update(Bill).values(total=1))
            await session.execute(update(Refund).values(reason="no"))
            (await session.get_one(Bill, 1)).total = 2
            await session.flush()
            await session.delete(await session.get_one(Bill, 4))
            await session.flush()
            await session.execute(delete(Bill).where(Bill.total == 1))
            # By the table, whose condition the developer writes.
            own = BILLS.c.tenant == current_tenant()
            await session.execute(update(BILLS).values(total=3).where(own))
            await session.execute(
                text("UPDATE bills SET total = 4 WHERE tenant = 'a' AND tenant = :t"), {"t": "a"}
            )
            await session.commit()
    with all_tenants():
        async with open_session(sessions.read) as session:
            rows = (await session.execute(select(BILLS.c.id, BILLS.c.total).order_by("id"))).all()
            assert [tuple(row) for row in rows] == [(1, 4), (2, 0), (3, 0)]


async def test_a_key_that_another_tenant_has_is_a_conflict_and_no_change(
    sessions: Sessions,
) -> None:
    with tenant_scope("a"):
        async with open_session(sessions.write) as session:
            await session.merge(Bill(id=3, client_id=1, total=9))
            with pytest.raises(IntegrityError):
                await session.flush()


async def test_a_session_is_for_one_tenant(sessions: Sessions) -> None:
    async with open_session(sessions.write) as session:
        assert await session.scalar(select(Tag.id)) == 1
        with tenant_scope("a"):
            assert await session.get(Bill, 1)
        with tenant_scope("b"), pytest.raises(TenantError, match="for one tenant"):
            await session.scalar(select(Tag.id))
        with all_tenants(), pytest.raises(TenantError, match="for one tenant"):
            await session.scalar(select(Bill.id))


async def test_all_tenants_are_read_and_written_by_who_says_so(sessions: Sessions) -> None:
    with all_tenants():
        async with open_session(sessions.write) as session:
            assert await ids_of(select(Bill.id))(session) == [1, 2, 3, 4, 5]
            session.add(Bill(client_id=1, tenant="c"))
            await session.flush()
            session.add(Bill(client_id=1))
            with pytest.raises(TenantError, match="names its tenant"):
                await session.flush()


router = APIRouter()


async def count_bills(sessions: Sessions) -> int | None:
    async with open_session(sessions.read) as session:
        return await session.scalar(select(func.count(Bill.id)))


@router.get("/task")
async def count_in_a_task(sessions: DbSessions) -> int | None:
    return await asyncio.create_task(count_bills(sessions))


@router.get("/stream")
async def count_in_a_stream(sessions: DbSessions) -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        yield str(await count_bills(sessions))

    return StreamingResponse(stream())


@router.get("/later")
async def count_in_the_background(sessions: DbSessions, tasks: BackgroundTasks) -> None:
    async def count() -> None:
        COUNTED.append(await count_bills(sessions))

    tasks.add_task(count)


COUNTED: list[int | None] = []


async def enter_tenant(x_tenant: Annotated[str, Header()]) -> AsyncIterator[None]:
    with tenant_scope(x_tenant):
        yield


async def test_a_scope_of_a_dependency_holds_until_the_request_has_ended(
    sessions: Sessions, settings: ChassisSettings
) -> None:
    app = create_stock(settings, router, dependencies=[Depends(enter_tenant)])
    async with started(app) as client:
        for tenant, count in (("a", 3), ("b", 2)):
            for path in ("/task", "/stream"):
                response = await client.get(path, headers={"X-Tenant": tenant})
                assert response.json() == count
            await client.get("/later", headers={"X-Tenant": tenant})
            assert COUNTED.pop() == count
            with pytest.raises(TenantError):
                current_tenant()


@pytest.mark.parametrize("tenant", ["", "*"])
def test_a_scope_has_the_id_of_a_tenant(tenant: str) -> None:
    with pytest.raises(TenantError, match="id of no tenant"), tenant_scope(tenant):
        pass


def test_scopes_nest_and_end() -> None:
    with tenant_scope("a"):
        with tenant_scope("b"):
            assert current_tenant() == "b"
        assert current_tenant() == "a"
    with pytest.raises(TenantError):
        current_tenant()


def test_a_table_beside_that_of_the_parent_is_refused() -> None:
    with pytest.raises(TenantError, match="single table inheritance"):
        type("Sub", (Bill,), {"__tablename__": "subs", "id": SUB_ID, "__mapper_args__": SUB})


SUB_ID = mapped_column(ForeignKey("bills.id"), primary_key=True)
SUB = {"polymorphic_identity": "sub"}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM bills",
        'SELECT id FROM "bills"',
        "SELECT id FROM public.bills",
        "SELECT id FROM bills b WHERE b.id = $1",
        "SELECT tags.id FROM tags, bills WHERE tags.tenant = $1",
        "SELECT id FROM (SELECT id FROM tags) AS t, bills",
        "SELECT id FROM tags LEFT OUTER JOIN bills AS b ON b.id = tags.id",
        "SELECT id FROM bills WHERE bills.tenant = $1 UNION SELECT id FROM bills",
        "SELECT id FROM bills WHERE bills.tenant = bills.tenant",
        "SELECT id FROM bills WHERE note = 'bills.tenant'",
        "UPDATE bills SET tenant=$1",
        "UPDATE ONLY bills SET total = 1",
        "DELETE FROM bills USING clients WHERE clients.tenant = $1",
        "INSERT INTO tags (id) SELECT id FROM bills",
        "INSERT INTO bills (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET total = 1",
        "WITH x AS (DELETE FROM bills RETURNING id) SELECT id FROM x",
    ],
)
def test_sql_that_is_not_kept_to_a_tenant_is_found(sql: str) -> None:
    with pytest.raises(TenantError):
        check_sql(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(id) AS bills FROM bills WHERE bills.tenant = $1::VARCHAR ORDER BY bills",
        "SELECT b.id FROM bills AS b WHERE b.tenant = %(tenant_1)s",
        "SELECT id FROM bills WHERE tenant = ?",
        "SELECT id, bills FROM tags GROUP BY id, bills ORDER BY id, bills",
        "SELECT 'FROM bills' FROM tags",
        "INSERT INTO bills (id) VALUES (?)",
        "INSERT INTO bills (id) VALUES (?) ON CONFLICT (tenant, id) DO UPDATE SET total = 1",
        "INSERT INTO tags (bills) VALUES (?) ON CONFLICT (id) DO UPDATE SET bills = 1",
        "SELECT id FROM bills WHERE bills.tenant = ? FOR UPDATE OF bills SKIP LOCKED",
        "WITH bill AS (SELECT id FROM bills WHERE bills.tenant = ?) SELECT id FROM bill, tags",
    ],
)
def test_sql_that_is_kept_to_one_passes(sql: str) -> None:
    check_sql(sql)


# Row-level security


@pytest.fixture
def secured(settings: ChassisSettings) -> Iterator[ChassisSettings]:
    """Settings of a role that is not the owner, on a database whose letters are secured."""
    only_on("postgres", settings)
    create_tables(settings, Apart.metadata)
    role = f"service_{uuid4().hex[:8]}"
    with administered(settings) as admin:
        for statement in (
            f"CREATE ROLE {role}",
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
            "ALTER TABLE letters ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY tenant ON letters "
            "USING (current_setting('app.tenant', true) IN (tenant, '*'))",
        ):
            admin.execute(text(statement))
        assert settings.database_url is not None
        url = settings.database_url.get_secret_value()
        option = f"{'&' if '?' in url else '?'}options=-c%20role%3D{role}"
        yield ChassisSettings(
            database_url=SecretStr(url + option), secrets_dir=settings.secrets_dir
        )
        admin.execute(text(f"DROP OWNED BY {role}"))
        admin.execute(text(f"DROP ROLE {role}"))


async def write_letter(session: AsyncSession) -> None:
    session.add(Letter(text=f"of {current_tenant()}"))
    await session.flush()


async def test_the_server_is_told_the_tenant_of_each_transaction(
    secured: ChassisSettings,
) -> None:
    # What the session itself checks is not there.
    unchecked = text("SELECT text FROM (SELECT * FROM letters WHERE letters.tenant = :t OR true) x")
    async with open_sessions(secured) as sessions:
        for tenant in "ab":
            with tenant_scope(tenant):
                await run_transaction(sessions.write, write_letter)
        for tenant in "aba":
            with tenant_scope(tenant):
                for factory in (sessions.write, sessions.read):
                    async with open_session(factory) as session:
                        for _ in range(2):
                            found = await session.scalars(unchecked, {"t": tenant})
                            assert found.all() == [f"of {tenant}"]
                            assert await session.scalar(select(Letter.text)) == f"of {tenant}"
                            await session.commit()
        with all_tenants():
            async with open_session(sessions.read) as session:
                assert len((await session.scalars(select(Letter.id))).all()) == 2


async def test_the_server_refuses_what_passes_the_session(secured: ChassisSettings) -> None:
    async with open_sessions(secured) as sessions:
        with tenant_scope("a"):
            async with open_session(sessions.write) as session:
                await write_letter(session)
                sql = text("INSERT INTO letters (tenant, text) VALUES ('b', 'forged')")
                with pytest.raises(ProgrammingError, match="row-level security"):
                    await session.execute(sql)
        engine = sessions.write.kw["bind"]
        async with engine.connect() as connection:
            # The connection has told the server of a tenant before: nothing is left of it.
            assert (await connection.execute(text("SELECT id FROM letters"))).all() == []


async def test_a_savepoint_that_is_rolled_back_leaves_the_tenant(
    secured: ChassisSettings,
) -> None:
    async with open_sessions(secured) as sessions:
        with tenant_scope("a"):
            async with open_session(sessions.write) as session:
                savepoint = await session.begin_nested()
                await write_letter(session)
                await savepoint.rollback()
                await write_letter(session)
                assert await session.scalar(select(func.count(Letter.id))) == 1


async def test_a_transaction_that_began_before_the_scope_is_told_too(
    secured: ChassisSettings,
) -> None:
    async with open_sessions(secured) as sessions, open_session(sessions.write) as session:
        assert await session.scalar(select(func.count(Tag.id))) == 0
        with tenant_scope("a"):
            await write_letter(session)
            assert await session.scalar(select(Letter.text)) == "of a"


async def test_a_role_that_the_server_shows_all_rows_is_found(
    settings: ChassisSettings, secured: ChassisSettings
) -> None:
    async with open_sessions(secured) as sessions:
        await check_row_security(sessions)
    async with open_sessions(settings) as sessions:
        with pytest.raises(TenantError, match="letters is not active"):
            await check_row_security(sessions)


async def test_sqlite_has_no_row_security_to_check(settings: ChassisSettings) -> None:
    only_on("sqlite", settings)
    async with open_sessions(settings) as sessions:
        await check_row_security(sessions)
