"""The guide's page of SQLModel: its text and its tests run, on both engines, and it is true."""

import asyncio
import importlib
from contextlib import nullcontext
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import pytest
from chassis.db import Base, DatabaseSettings, create_database_engine, create_session_factory
from chassis.fields import Moment
from pydantic import NaiveDatetime, ValidationError
from sqlalchemy import Column, DateTime, MetaData, inspect, text
from sqlalchemy import Enum as SQLEnum
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InvalidRequestError,
    MissingGreenlet,
    NoReferencedTableError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, configure_mappers, registry
from sqlmodel import Field, Relationship, SQLModel, select
from sqlmodel.main import default_registry

from tests.models.trial import ENGINES, Databases
from tests.pages.service import run
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/sqlmodel.md"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Kind(Enum):
    """Members with names and values that differ."""

    LARGE = "large"


class Parent(SQLModel, registry=Base.registry):
    """A parent as the page's."""

    __mapper_args__: ClassVar[dict[str, Any]] = {"eager_defaults": True}


class Shape(Parent, table=True):
    """What the page says of fields, and does not show."""

    __tablename__ = "shapes"

    id: int | None = Field(default=None, primary_key=True)
    kind: Kind = Field(
        default=Kind.LARGE,
        sa_type=SQLEnum(Kind, values_callable=lambda kind: [one.value for one in kind]),
    )
    local: NaiveDatetime | None = None
    moment: Moment | None = None


class Stamped(SQLModel):
    """Two models inherit its column."""

    at: datetime = Field(sa_column=Column(DateTime(timezone=True)))


@pytest.fixture(scope="module")
def models(service: Path) -> Any:  # noqa: ARG001
    """The page's models, importable while its service is."""
    return importlib.import_module("my_service.models")


def test_the_services_own_tools_and_tests_pass(service: Path) -> None:
    # What is put beside something has its imports in no order.
    run(service, "ruff", "check", "--quiet", "--fix", "--select=I")
    run(service, "ruff", "format", "--quiet", "src/my_service/models/__init__.py")
    run(service, "alembic", "upgrade", "head")
    run(service, "alembic", "revision", "--autogenerate", "-m", "add heroes")
    (revision,) = service.glob("src/my_service/migrations/versions/*_add_heroes.py")
    assert "sqlmodel" not in revision.read_text(encoding="utf-8")
    for arguments in (["ruff", "format", "--diff"], ["ruff", "check"], ["mypy"]):
        run(service, *arguments)
    for engine in ENGINES:
        run(service, "pytest", "--quiet", "--numprocesses=0", "--database", engine, "tests")


def test_columns_are_as_the_fields_say(models: Any) -> None:
    types = {column.name: column.type for column in models.Hero.__table__.columns}
    assert (types["name"].length, types["pay"].precision, types["pay"].scale) == (50, 10, 2)
    names = {one.name for one in models.Hero.__table__.constraints}
    assert names == {"pk_heroes", "fk_heroes_team_id_teams", "uq_heroes_token"}
    with pytest.raises(ValidationError, match="at most 50 characters"):
        models.Hero.model_validate({"name": "x" * 51})
    with pytest.raises(TypeError, match="unhashable"):
        hash(models.Hero(name="Ada"))


def test_what_sqlmodel_can_not_do_is_an_error(models: Any) -> None:
    class First(Stamped, Parent, table=True):
        id: int | None = Field(default=None, primary_key=True)

    with pytest.raises(ArgumentError, match="already assigned to Table"):

        class Second(Stamped, Parent, table=True):
            id: int | None = Field(default=None, primary_key=True)

    with pytest.raises(ValueError, match="no matching SQLAlchemy type"):

        class Document(Parent, table=True):
            id: int | None = Field(default=None, primary_key=True)
            notes: dict[str, Any]

    class OwnArguments(Parent, table=True):
        __mapper_args__: ClassVar[dict[str, Any]] = {"confirm_deleted_rows": False}

        id: int | None = Field(default=None, primary_key=True)

    assert inspect(OwnArguments).eager_defaults == "auto"
    assert inspect(models.Hero).eager_defaults is True


POSTPONED = """
from __future__ import annotations
class Team(Parent, table=True):
    id: int | None = Field(default=None, primary_key=True)
    heroes: Mapped[list[Hero]] = Relationship()
class Hero(Parent, table=True):
    id: int | None = Field(default=None, primary_key=True)
    team_id: int = Field(foreign_key="team.id")
"""


@pytest.mark.parametrize("is_postponed", [False, True])
def test_a_relation_has_to_be_read_at_once(is_postponed: bool) -> None:
    mappers = registry()

    class Apart(SQLModel, registry=mappers):
        pass

    code = POSTPONED
    if not is_postponed:
        code = code.replace("from __future__ import annotations", "").replace("[Hero]", "['Hero']")
    names = {"Parent": Apart, "Field": Field, "Mapped": Mapped, "Relationship": Relationship}
    exec(code, names | {"__name__": __name__})
    with pytest.raises(InvalidRequestError) if is_postponed else nullcontext():
        mappers.configure()
    # What can't be configured would spoil all others.
    mappers.dispose()


def test_a_parent_takes_a_metadata_of_ones_own() -> None:
    class Own(SQLModel, registry=Base.registry):
        pass

    Own.metadata = MetaData()

    class Thing(Own, table=True):
        id: int | None = Field(default=None, primary_key=True)

    assert list(Own.metadata.tables) == ["thing"]
    assert "thing" not in Base.metadata.tables


def test_what_has_sqlmodel_as_parent_is_apart() -> None:
    class Apart(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        shape_id: int = Field(foreign_key="shapes.id")

    (key,) = Apart.__table__.foreign_keys  # type: ignore[attr-defined]
    with pytest.raises(NoReferencedTableError):
        assert key.column

    class Related(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        shape: Mapped["Shape"] = Relationship()

    with pytest.raises(InvalidRequestError, match="failed to locate a name"):
        configure_mappers()
    default_registry.dispose()


def test_what_the_page_says_of_values_and_sessions_holds_on_both_engines(
    models: Any, databases: Databases
) -> None:
    for engine in ENGINES:
        asyncio.run(on_tables(databases.create(engine), models))


async def on_tables(settings: DatabaseSettings, models: Any) -> None:
    """Make the tables and try each statement."""
    engine = create_database_engine(settings)
    factory = create_session_factory(settings, engine)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        for attempt in (
            store_without_validation,
            store_values,
            change_inside_json,
            use_sessions,
            read_after_rollback,
        ):
            async with factory() as session:
                await attempt(session, models)
    finally:
        await engine.dispose()


async def store_without_validation(session: AsyncSession, models: Any) -> None:
    """SQLite stores what does not fit."""
    session.add(models.Hero(name="x" * 51))
    if session.get_bind().dialect.name == "sqlite":
        await session.commit()
        await session.execute(text("DELETE FROM heroes"))
        await session.commit()
    else:
        with pytest.raises(DBAPIError, match="too long"):
            await session.commit()


async def store_values(session: AsyncSession, models: Any) -> None:
    """Enums by name or by value; datetimes with and without a time zone."""
    session.add(models.Hero(name="Ada", rank=models.hero.Rank.MASTER))
    session.add(Shape(local=MOMENT.replace(tzinfo=None), moment=MOMENT))
    await session.commit()
    assert await session.scalar(text("SELECT CAST(rank AS VARCHAR(9)) FROM heroes")) == "MASTER"
    assert await session.scalar(text("SELECT CAST(kind AS VARCHAR(9)) FROM shapes")) == "large"
    session.expunge_all()
    shape = (await session.scalars(select(Shape))).one()
    assert (shape.kind, shape.local, shape.moment) == (
        Kind.LARGE,
        MOMENT.replace(tzinfo=None),
        MOMENT,
    )
    for wrong in (Shape(local=MOMENT), Shape(moment=MOMENT.replace(tzinfo=None))):
        session.add(wrong)
        with pytest.raises(StatementError, match=r"time ?zone"):
            await session.flush()
        await session.rollback()


async def change_inside_json(session: AsyncSession, models: Any) -> None:
    """A new document is stored, a change inside is lost."""
    hero = (await session.scalars(select(models.Hero))).one()
    hero.notes["lost"] = True
    await session.commit()
    await session.refresh(hero)
    assert hero.notes == {}
    hero.notes = {**hero.notes, "seen": True}
    await session.commit()
    await session.refresh(hero)
    assert hero.notes == {"seen": True}


async def use_sessions(session: AsyncSession, models: Any) -> None:
    """Rows of two models; what the server fills in; a relation that nobody loaded."""
    assert not hasattr(session, "exec")
    hero = (await session.scalars(select(models.Hero))).one()
    hero.team = models.Team(name="Night watch")
    await session.commit()
    assert hero.team_id == hero.team.id
    session.expunge_all()
    rows = await session.execute(select(models.Hero, models.Team).join(models.Team))
    ((hero, team),) = rows.all()
    assert (hero.name, team.name) == ("Ada", "Night watch")
    with pytest.raises(InvalidRequestError, match=r"'Team\.heroes' is not available"):
        assert team.heroes


async def read_after_rollback(session: AsyncSession, models: Any) -> None:
    """Nothing is left of the values, and only an attribute says so."""
    hero = (await session.scalars(select(models.Hero))).one()
    hero.name = "Bob"
    await session.flush()
    await session.rollback()
    assert hero.model_dump() == {}
    with pytest.raises(MissingGreenlet, match="a rollback has expired it"):
        assert hero.name
    await session.refresh(hero)
    assert hero.name == "Ada"
