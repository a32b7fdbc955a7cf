"""JSON documents: a change inside one is stored like an assignment, on both databases."""

import copy
import json
import pickle
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from chassis_stock import create_tables
from pydantic import TypeAdapter
from sqlalchemy import JSON, MetaData, func, insert, null, select, type_coerce, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from chassis.db import Base, DatabaseSettings
from chassis.db.migrations.connect import open_connection

START: dict[str, Any] = {"n": 1, "deep": {"er": {"list": [1, {"x": 0}]}}, "list": [3, 1, 2]}


class Wrapped(TypeDecorator[Any]):
    """A type of a service around JSON."""

    impl = JSON
    cache_ok = True


class Sample(Base):
    """Keeps these tables apart from those of other tests."""

    __abstract__ = True
    metadata = MetaData()


class HasLabels:
    """A mixin with a document."""

    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Note(HasLabels, Sample):
    """Documents, declared in every style."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="note")
    meta: Mapped[dict[str, Any] | None]
    plain: Mapped[Any | None] = mapped_column(JSON)
    wrapped: Mapped[Any | None] = mapped_column(Wrapped)
    variant: Mapped[Any | None] = mapped_column(JSON().with_variant(JSONB(), "postgresql"))
    mutable: Mapped[Any | None] = mapped_column(MutableDict.as_mutable(JSON()))
    deferred: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "note"}  # noqa: RUF012


class Shelf(Sample):
    """Each kind of document that a model may name by its type alone."""

    __tablename__ = "shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    anything: Mapped[list[Any]]
    words: Mapped[list[str]]
    numbers: Mapped[list[int] | None]
    rows: Mapped[list[dict[str, Any]]]
    names: Mapped[dict[str, str]]


class LongNote(Note):
    """A subclass in the same table, with a document of its own."""

    more: Mapped[dict[str, Any] | None]

    __mapper_args__ = {"polymorphic_identity": "long"}  # noqa: RUF012


NOTES = LongNote.metadata.tables["note"]
NAMES = ("labels", "meta", "plain", "wrapped", "variant", "deferred", "more")


@pytest.fixture
def settings(settings: DatabaseSettings) -> DatabaseSettings:
    """Give settings on a database with the tables."""
    create_tables(settings, Sample.metadata)
    return settings


async def read_again(session: AsyncSession, name: str) -> Any:
    return await session.scalar(select(NOTES.c[name]))


async def stored_note(session: AsyncSession, settings: DatabaseSettings) -> LongNote:
    """Store a note, and load it."""
    with open_connection(settings) as connection:
        connection.execute(insert(NOTES).values(kind="long", **dict.fromkeys(NAMES, START)))
        connection.commit()
    note = (await session.scalars(select(LongNote))).one()
    await session.refresh(note, ["deferred"])
    return note


@pytest.mark.parametrize("name", NAMES)
async def test_a_change_inside_is_stored(
    name: str, session: AsyncSession, settings: DatabaseSettings
) -> None:
    note = await stored_note(session, settings)
    for step, change in enumerate(CHANGES):
        document = getattr(note, name)
        expected = json.loads(json.dumps(document))
        change(document)
        change(expected)
        assert session.is_modified(note), step
        await session.commit()
        assert getattr(note, name) == expected
        assert await read_again(session, name) == expected
        await session.commit()


def setdefault(document: Any) -> None:
    document.setdefault("found", []).append(1)


def add_in_place(document: Any) -> None:
    document["list"] += [{"z": 1}]
    document["list"][-1]["z"] = 2


def multiply_in_place(document: Any) -> None:
    document["list"] *= 2


def set_slice(document: Any) -> None:
    document["list"][0:1] = [{"a": 1}]
    document["list"][0]["a"] = 2


def merge_in_place(document: Any) -> None:
    document["deep"] |= {"new": {"a": 1}}
    document["deep"]["new"]["a"] = 2


def delete_key(document: Any) -> None:
    del document["n"]


def delete_item(document: Any) -> None:
    del document["list"][0]


CHANGES: list[Callable[[Any], Any]] = [
    lambda document: document.update(seen=True),
    lambda document: document["deep"].update({"seen": {"at": 1}}),
    lambda document: document["deep"]["seen"].pop("at"),
    lambda document: document["deep"]["er"]["list"][1].update(x=1),
    lambda document: document["deep"]["er"]["list"].append({"y": {}}),
    lambda document: document["deep"]["er"]["list"][-1]["y"].update(z=1),
    lambda document: document["list"].sort(),
    lambda document: document["list"].reverse(),
    lambda document: document["list"].insert(0, {"i": 1}),
    lambda document: document["list"].extend([4, [5]]),
    lambda document: document["list"][-1].append(6),
    lambda document: document["list"].remove(4),
    lambda document: document["list"].pop(),
    setdefault,
    add_in_place,
    multiply_in_place,
    set_slice,
    merge_in_place,
    delete_key,
    delete_item,
    lambda document: document["list"].clear(),
    lambda document: document["deep"].popitem(),
    lambda document: document.clear(),
]


async def test_a_new_object_is_followed_after_its_flush(session: AsyncSession) -> None:
    given: dict[str, Any] = {"list": []}
    note = Note(meta=given)
    session.add(note)
    await session.flush()
    note.meta["list"].append(1)  # type: ignore[index]
    note.labels["new"] = True
    await session.commit()

    assert await read_again(session, "meta") == {"list": [1]}
    assert await read_again(session, "labels") == {"new": True}
    assert given == {"list": []}
    await session.commit()


async def test_a_document_stays_the_same_object_after_a_commit(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    note = await stored_note(session, settings)
    document, part = note.meta, note.meta["deep"]  # type: ignore[index]
    for number in range(3):
        part["number"] = number
        await session.commit()
        assert note.meta is document
        assert (await read_again(session, "meta"))["deep"]["number"] == number
        await session.commit()


async def test_documents_of_two_rows_are_two(session: AsyncSession) -> None:
    first, second = Note(meta={"part": {}}), Note()
    session.add_all([first, second])
    await session.flush()
    second.meta = first.meta
    second.meta["part"]["of"] = 2  # type: ignore[index]
    second.labels = second.meta  # type: ignore[assignment]
    second.labels["own"] = True
    await session.commit()

    assert (first.meta, second.meta) == ({"part": {}}, {"part": {"of": 2}})
    found = (await session.scalars(select(NOTES.c.meta).order_by(NOTES.c.id))).all()
    assert found == [{"part": {}}, {"part": {"of": 2}}]
    await session.commit()


async def test_an_update_statement_leaves_a_followed_document(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    note = await stored_note(session, settings)
    await session.execute(update(LongNote).values(meta={"a": {}}))
    note.meta["a"]["b"] = 1  # type: ignore[index]
    await session.commit()

    assert await read_again(session, "meta") == {"a": {"b": 1}}
    await session.commit()


async def test_other_values_pass(session: AsyncSession) -> None:
    note = Note(plain=1, variant="text", meta=None, wrapped=JSON.NULL)
    session.add(note)
    await session.flush()
    note.plain = [1, 2]
    note.variant = type_coerce({"a": []}, Note.variant.type)
    note.meta = null()
    await session.commit()
    note.plain.append(3)
    await session.commit()

    assert await read_again(session, "plain") == [1, 2, 3]
    assert await read_again(session, "variant") == {"a": []}
    assert await read_again(session, "meta") is None
    await session.commit()


async def test_a_mutable_type_of_sqlalchemy_keeps_its_own_rules(session: AsyncSession) -> None:
    note = Note(mutable={"n": 1})
    session.add(note)
    await session.commit()
    note.mutable["n"] = 2  # type: ignore[index]
    await session.commit()

    assert isinstance(note.mutable, MutableDict)
    assert await read_again(session, "mutable") == {"n": 2}
    await session.commit()


async def test_a_document_is_a_dict_to_everybody(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    note = await stored_note(session, settings)

    assert json.loads(json.dumps(note.meta)) == START
    assert json.loads(TypeAdapter(dict[str, Any]).dump_json(note.meta or {})) == START
    assert TypeAdapter(dict[str, Any]).dump_python(note.meta or {}) == START
    assert copy.deepcopy(note.meta) == copy.copy(note.meta) == START
    copy.deepcopy(note.meta)["deep"]["er"] = None  # type: ignore[index]
    assert note not in session.dirty
    assert note.meta == START


async def test_a_pickled_object_is_followed_again(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    note = await stored_note(session, settings)
    again = pickle.loads(pickle.dumps(note))
    session.expunge(note)
    session.add(again)
    again.meta["deep"]["pickled"] = True
    await session.commit()

    assert (await read_again(session, "meta"))["deep"]["pickled"] is True
    await session.commit()


async def test_a_row_of_columns_is_as_the_driver_made_it(
    session: AsyncSession, settings: DatabaseSettings
) -> None:
    await stored_note(session, settings)

    (row,) = (await session.execute(select(Note.meta, Note.plain))).all()
    assert [type(value) for value in row] == [dict, dict]


async def test_lists_and_mappings_are_documents_by_their_annotation(session: AsyncSession) -> None:
    shelf = Shelf(anything=[1, "a"], words=["a"], numbers=None, rows=[{"a": 1}], names={"a": "b"})
    session.add(shelf)
    await session.commit()
    shelf.words.append("b")
    shelf.rows[0]["a"] = 2
    await session.commit()
    table = Shelf.metadata.tables["shelf"]
    row = (await session.execute(select(table))).one()
    assert row[1:] == ([1, "a"], ["a", "b"], None, [{"a": 2}], {"a": "b"})
    assert await session.scalar(select(table.c.id).where(table.c.numbers.is_(None))) == shelf.id
    if session.get_bind().dialect.name == "postgresql":
        kinds = await session.execute(select(*(func.pg_typeof(column) for column in table.c)))
        assert set(map(str, kinds.one()[1:])) == {"jsonb"}
