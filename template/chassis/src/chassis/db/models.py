"""What models are made of: moments, versions, keys, enums, and text that is unique in either case.

Each means the same on SQLite and on PostgreSQL. Nothing of it is used unless a model asks for it.
"""

import enum
import secrets
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any
from unicodedata import normalize
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Dialect,
    Enum,
    Integer,
    String,
    column,
    event,
    func,
    inspect,
    table,
    text,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Mapped, Mapper, declared_attr, mapped_column
from sqlalchemy.types import TypeDecorator

from .base import Base, UTCDateTime
from .errors import InvalidValueError

__all__ = [
    "BigKey",
    "CaselessString",
    "Timestamps",
    "UUIDKey",
    "Versioned",
    "fold_case",
    "string_enum",
    "uuid7",
]


class Timestamps:
    """When a row was made, and last changed: aware, in UTC, by the database's clock.

    Statements of the session and of Core set them, not SQL text and not the update of an upsert.
    """

    created_at: Mapped[datetime] = mapped_column(UTCDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        UTCDateTime, server_default=func.now(), onupdate=func.now()
    )


class Versioned:
    """A number that each change of a row raises, by the session or by an `update(…)`.

    A flush of a row that was changed or deleted meanwhile raises StaleDataError, which is a 409.
    """

    @declared_attr
    def version(cls) -> Mapped[int]:  # noqa: N805
        """1 for a new row."""
        # A column of this name alone could be one of another table, in an UPDATE … FROM.
        own = table(getattr(cls, "__tablename__", ""), column("version", Integer)).c.version
        return mapped_column(Integer, server_default=text("1"), onupdate=own + 1)


@event.listens_for(Versioned, "after_mapper_constructed", propagate=True)
def check_versions(mapper: Mapper[Any], model: type[Any]) -> None:
    """Compare the version in each flush; `__mapper_args__` would do so only without a model's."""
    if mapper.version_id_col is None:
        mapper.version_id_col = inspect(model).local_table.c.version


class _UUID7Sequence:
    """UUIDs of version 7 (RFC 9562, section 5.7), each above the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next_uuid(self) -> UUID:
        # Milliseconds and 12 bits of their fraction, so that those of several processes rise, too.
        moment = (time.time_ns() << 12) // 1_000_000
        with self._lock:
            # A clock that stands still, or goes back, is waited for by counting on.
            number = max(moment << 62 | secrets.randbits(62), self._last + 1 + secrets.randbits(32))
            self._last = number
        milliseconds, fraction, random = number >> 74, number >> 62 & 0xFFF, number & (1 << 62) - 1
        return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | random)


_SEQUENCE = _UUID7Sequence()


def uuid7() -> UUID:
    """Return a UUID of version 7: it begins with the time, and is above all that this process made.

    Who sees it knows to the millisecond when it was made.
    """
    return _SEQUENCE.next_uuid()


UUIDKey = Annotated[UUID, mapped_column(primary_key=True, insert_default=uuid7)]
"""A primary key that the process makes, rising so that inserts are cheap: `Mapped[UUIDKey]`."""

BigKey = Annotated[int, mapped_column(BigInteger, primary_key=True)]
"""A primary key of 64 bits that the database counts: `id: Mapped[BigKey]`."""


def string_enum(members: type[enum.Enum], *, name: str | None = None, length: int = 50) -> Enum:
    """Return the type of a column that stores an enum's values, such as those of a `StrEnum`.

    It is VARCHAR(length) with a CHECK: both databases sort it as text and refuse other values.
    `name` is that of the CHECK, by default the enum's; each column of a table needs its own.
    """
    wrong = [one for one in members if not isinstance(one.value, str)]
    if wrong:
        raise ArgumentError(f"string_enum({members.__name__}): the value of {wrong[0]} is no str")
    return Enum(
        members,
        name=name or members.__name__.lower(),
        native_enum=False,
        create_constraint=True,
        length=length,
        values_callable=_list_values,
    )


def _list_values(members: Iterable[enum.Enum]) -> list[str]:
    return [one.value for one in members]


def fold_case(value: str) -> str:
    """Return a text without the difference of case, nor of how an accent is written (NFC).

    Unicode's caseless matching: `STRASSE`, `Straße` and `strasse` are one text.
    """
    return normalize("NFC", normalize("NFD", value).casefold())


class CaselessString(TypeDecorator[str]):
    """Text that is stored without its case, so that `unique=True` and `==` are in either case.

    The databases differ in what they take for a capital letter: it is Python that folds, also what
    a column is compared with. SQL text is not folded.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the folded text. Raise InvalidValueError if it is longer than the column."""
        if not isinstance(value, str):
            return value
        folded = fold_case(value)
        if len(folded) > self.length:
            raise InvalidValueError(f"the column has {self.length} characters")
        return folded


@event.listens_for(Base, "mapper_configured", propagate=True)
def fold_assigned_texts(mapper: Mapper[Any], model: type[Any]) -> None:
    """Fold a text when it is assigned: an object reads as its row does."""
    for attribute in mapper.column_attrs:
        if attribute.parent is mapper and isinstance(attribute.columns[0].type, CaselessString):
            assigned = getattr(model, attribute.key)
            event.listen(assigned, "set", _fold_text, retval=True, propagate=True)


def _fold_text(target: object, value: Any, *_: object) -> Any:
    return fold_case(value) if isinstance(value, str) else value
