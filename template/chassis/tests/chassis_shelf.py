"""A service of authors and their books, whose tests run in a pytest of their own."""

import pytest

PYPROJECT = """
[tool.pytest.ini_options]
pythonpath = ["."]
filterwarnings = ["error", "ignore::UserWarning"]
"""
SERVICE = """
import logging
from typing import Annotated

from fastapi import APIRouter, FastAPI
from sqlalchemy import ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import Mapped, mapped_column, relationship

from chassis import ChassisSettings, add_log_fields, create_app
from chassis.auth import Caller, requires
from chassis.db import Base, DbReadSession, DbSession

logger = logging.getLogger(__name__)
router = APIRouter()


class Author(AsyncAttrs, Base):
    __tablename__ = "author"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    teacher_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    books: Mapped[list["Book"]] = relationship(back_populates="author")
    pupils: Mapped[list["Author"]] = relationship()


class Book(AsyncAttrs, Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author | None] = relationship(back_populates="books")


@router.post("/books/{title}")
async def keep(title: str, session: DbSession) -> int:
    book = Book(title=title)
    session.add(book)
    await session.commit()
    return book.id


@router.post("/forgotten/{title}")
async def forget(title: str, session: DbSession) -> None:
    session.add(Book(title=title))


@router.get("/books")
async def titles(session: DbReadSession) -> list[str]:
    return list(await session.scalars(select(Book.title).order_by(Book.id)))


@router.get("/books/{title}/place")
async def find(title: str) -> None:
    add_log_fields(title=title)
    logger.info("found")


@router.put("/books/{title}")
async def rename(title: str, caller: Annotated[Caller, requires("books:write")]) -> str:
    return f"{caller.subject} of {caller.tenant} with {sorted(caller.roles)}"


async def know_nobody(connection: object) -> None: ...


def create_service(settings: ChassisSettings | None = None) -> FastAPI:
    # So that it starts without the extra `auth`, too.
    return create_app(
        settings or ChassisSettings(),
        package="shelf",
        routers=[router],
        authenticators=(know_nobody,),
    )
"""
COMMAND = """
from chassis import ChassisSettings, create_cli

create_cli("shelf.main:create_service", settings=ChassisSettings)(prog_name="shelf")
"""
ENVIRONMENT = """
from chassis.db import DatabaseSettings, run_migrations
from shelf.main import Book

run_migrations(Book.metadata, DatabaseSettings())
"""
REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "author",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("teacher_id", sa.Integer, sa.ForeignKey("author.id")),
    )
    op.create_table(
        "book",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("author_id", sa.Integer, sa.ForeignKey("author.id")),
    )


def downgrade() -> None:
    op.drop_table("book")
    op.drop_table("author")
"""
CONFTEST = """
import pytest

from chassis import ChassisSettings
from chassis.testing import Service
from shelf.main import create_service


@pytest.fixture(scope="session")
def service() -> Service[ChassisSettings]:
    return Service(create=create_service, settings=ChassisSettings, package="shelf")
"""


def write_shelf(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the service, in a shell and beside a `.env` that would spoil its tests."""
    pytester.makepyprojecttoml(PYPROJECT)
    pytester.makeconftest(CONFTEST)
    versions = pytester.mkpydir("shelf") / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions.parent.parent / "main.py").write_text(SERVICE)
    (versions.parent.parent / "__main__.py").write_text(COMMAND)
    (versions.parent / "env.py").write_text(ENVIRONMENT)
    (versions / "1_create_books.py").write_text(REVISION)
    pytester.path.joinpath(".env").write_text("APP_LOG_LEVEL=ERROR\n")
    monkeypatch.setenv("APP_DATABASE_URL", "postgresql://shell@nowhere.invalid/shell")
    monkeypatch.setenv("DATABASE_URL", "postgresql://platform@nowhere.invalid/platform")
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
