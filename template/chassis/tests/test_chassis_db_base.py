"""The base of models: names of constraints, UTC datetimes, JSON, and what the server fills in."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from chassis_stock import Item, create_tables
from sqlalchemy import (
    JSON,
    Connection,
    ForeignKey,
    Integer,
    MetaData,
    Text,
    event,
    func,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column, registry

from chassis import ChassisSettings
from chassis.db import Base
from chassis.db.base import resolve_document

NOON = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
Labels = Annotated[list[str], 1]


class Sample(Base):
    """Keeps these tables apart from those of other tests."""

    __abstract__ = True
    metadata = MetaData()

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="old")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Versioned(Sample):
    """Mapper arguments of its own."""

    __tablename__ = "versioned"
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class HasArguments:
    """Mapper arguments of a mixin."""

    __mapper_args__ = {"confirm_deleted_rows": False}  # noqa: RUF012


class Mixed(HasArguments, Sample):
    """The mixin's arguments come before those of the base."""

    __tablename__ = "mixed"


class Declared(Sample):
    """Mapper arguments from a function."""

    __tablename__ = "declared"

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805
        return {"confirm_deleted_rows": False}


class Shape(Sample):
    """The first of a family in one table."""

    __tablename__ = "shape"
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "shape"}  # noqa: RUF012


class Circle(Shape):
    """One of the family, with an identity."""

    __mapper_args__ = {"polymorphic_identity": "circle"}  # noqa: RUF012


class Joined(Shape):
    """One of the family, in a table of its own."""

    __tablename__ = "joined"
    id: Mapped[int] = mapped_column(ForeignKey("shape.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "joined"}  # noqa: RUF012


class AbstractShape(Shape):
    """One of the family without arguments of its own: it does not take the identity of another."""

    __mapper_args__ = {"polymorphic_abstract": True}  # noqa: RUF012


class Lazy(Sample):
    """A model that asks not to fetch."""

    __tablename__ = "lazy"
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings)
    return settings


async def read_again(session: AsyncSession, column: Any) -> Any:
    return await session.scalar(select(column))


async def test_a_datetime_comes_back_aware_and_in_utc(session: AsyncSession) -> None:
    session.add(Item(created_at=NOON))
    await session.commit()

    found = await read_again(session, Item.created_at)
    assert found == NOON
    assert found.tzinfo is UTC


async def test_the_servers_time_is_aware_and_now(session: AsyncSession) -> None:
    item = Item()
    session.add(item)
    await session.commit()

    assert item.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - item.created_at) < timedelta(seconds=60)


async def test_datetimes_are_compared_as_moments(session: AsyncSession) -> None:
    session.add(Item(created_at=NOON))
    await session.commit()

    same = NOON.astimezone(timezone(timedelta(hours=-8)))
    assert await session.scalar(select(Item.id).where(Item.created_at == same)) is not None
    later = select(Item.id).where(Item.created_at > same)
    assert await session.scalar(later) is None


async def test_a_naive_datetime_is_refused(session: AsyncSession) -> None:
    session.add(Item(created_at=datetime(2024, 2, 29)))

    with pytest.raises(StatementError, match="a naive datetime can't be stored"):
        await session.flush()
    await session.rollback()


async def test_a_dict_is_json_on_both_backends(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    details = {"size": 3, "tags": ["a", {"b": None}], "ä": 1.5, "'": '"'}
    session.add(Item(details=details))
    await session.commit()

    assert await read_again(session, Item.details) == details
    size = Item.details["size"].as_integer()
    assert await session.scalar(select(Item.id).where(size == 3)) is not None
    if settings.database_target.backend == "postgres":
        assert await session.scalar(text("SELECT pg_typeof(details)::text FROM item")) == "jsonb"


def test_a_dict_is_jsonb_on_postgres() -> None:
    column = Base.metadata.tables["item"].c.details
    server = postgresql.dialect()  # type: ignore[no-untyped-call]
    assert isinstance(column.type.dialect_impl(server), postgresql.JSONB)
    assert not isinstance(column.type.dialect_impl(sqlite.dialect()), postgresql.JSONB)


def test_the_type_of_a_document_may_be_another_in_the_map_of_types_of_a_service() -> None:
    mapped = registry(type_annotation_map={list[int]: Text(), Labels: Text()})
    event.listen(mapped, "resolve_type_annotation", resolve_document)

    class Own(DeclarativeBase):
        registry = mapped

    class Note(Own):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        days: Mapped[list[int] | None]
        labels: Mapped[Labels]
        names: Mapped[list[str]]
        tags: Mapped[Annotated[list[str], mapped_column(index=True)]]

    columns = inspect(Note).columns
    assert [type(column.type) for column in columns] == [Integer, Text, Text, JSON, JSON]


async def test_what_the_server_fills_in_on_update_is_there_after_a_flush(
    session: AsyncSession,
) -> None:
    item = Item(updated_at=NOON)
    session.add(item)
    await session.commit()
    item.quantity = 1
    await session.commit()

    assert item.updated_at > NOON
    assert item.updated_at == await read_again(session, Item.updated_at)


@pytest.mark.parametrize("model", [Versioned, Mixed, Declared, Shape, Circle, Joined], ids=str)
async def test_a_models_own_mapper_arguments_take_nothing_away(
    session: AsyncSession, settings: ChassisSettings, model: type[Any]
) -> None:
    create_tables(settings, Sample.metadata)
    thing = model(updated_at=NOON)
    session.add(thing)
    await session.commit()
    thing.name = "new"
    await session.commit()

    assert thing.updated_at > NOON


async def test_a_model_may_ask_for_less(session: AsyncSession) -> None:
    assert Lazy.__mapper__.eager_defaults is False


async def test_an_update_statement_fills_it_in_too(session: AsyncSession) -> None:
    session.add(Item(updated_at=NOON))
    await session.flush()
    await session.execute(update(Item).values(quantity=2))

    assert await read_again(session, Item.updated_at) > NOON
    await session.commit()


async def test_constraints_and_indexes_have_names(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        names = await connection.run_sync(constraint_names)

    assert names == {
        "ck_item_quantity_not_negative",
        "fk_part_item_id_item",
        "ix_part_item_id",
        "pk_item",
        "pk_part",
        "uq_item_name",
    }


def constraint_names(connection: Connection) -> set[str | None]:
    database = inspect(connection)
    found: list[Any] = []
    for table in ("item", "part"):
        found += [database.get_pk_constraint(table), *database.get_foreign_keys(table)]
        found += database.get_unique_constraints(table) + database.get_check_constraints(table)
        found += [index for index in database.get_indexes(table) if not index["unique"]]
    return {one["name"] for one in found}
