"""A process that writes and reads enums, arrays and JSON for some seconds, and counts errors.

Run as a program, `python mixed_load.py SECONDS`; its settings are APP_* variables.
"""

import asyncio
import enum
import json
import random
import sys
import time
from collections import Counter
from typing import Any

from chassis.db import (
    Base,
    DatabaseSettings,
    create_database_engine,
    create_read_engine,
    create_session_factory,
    session_scope,
)
from chassis.db.sessions import SessionFactory
from sqlalchemy import Enum, MetaData, String, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

TASKS = 8


class Mood(enum.Enum):
    """A type that the server knows by a number of its own."""

    CALM = "calm"
    BUSY = "busy"


class Note(Base):
    """A row of types that a driver has to look up."""

    # Its own, for it shares a process with tests of all tables of the usual one.
    metadata = MetaData()
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    mood: Mapped[Mood]
    tags: Mapped[list[str]] = mapped_column(ARRAY(String))
    moods: Mapped[list[Mood]] = mapped_column(ARRAY(Enum(Mood)))
    data: Mapped[dict[str, Any]]


async def write(sessions: SessionFactory) -> None:
    """Insert a row, change it, and read it back in the same transaction."""
    number = random.randrange(1_000_000)
    async with session_scope(sessions) as session:
        note = Note(mood=Mood.CALM, tags=["a", str(number)], moods=[*Mood], data={"number": number})
        session.add(note)
        await session.flush()
        await session.execute(update(Note).where(Note.id == note.id).values(mood=Mood.BUSY))
        found = await session.scalar(
            select(Note.tags).where(Note.id == note.id, Note.mood == Mood.BUSY)
        )
        await session.commit()
    assert found == ["a", str(number)], found


async def read(sessions: SessionFactory) -> None:
    """Read rows by an enum, an array and a key of their JSON."""
    async with session_scope(sessions) as session:
        rows = await session.scalars(
            select(Note)
            .where(Note.mood.in_(list(Mood)), Note.tags.contains(["a"]))
            .order_by(Note.id.desc())
            .limit(random.randint(1, 5))
        )
        for note in rows:
            assert note.data["number"] == int(note.tags[1])
        number = random.randrange(1000)
        counted = select(func.count()).where(Note.data["number"].as_integer() > number)
        assert await session.scalar(counted) is not None


async def load(seconds: float) -> dict[str, Any]:
    """Run the load and give the number of operations, and of errors by their kind."""
    settings = DatabaseSettings()
    engines = (create_database_engine(settings), create_read_engine(settings))
    writes, reads = (create_session_factory(settings, engine) for engine in engines)
    done, errors = Counter[str](), Counter[str]()
    end = time.monotonic() + seconds

    async def work() -> None:
        while time.monotonic() < end:
            operation, sessions = random.choice(((write, writes), (read, reads)))
            try:
                await operation(sessions)
                done[operation.__name__] += 1
            except Exception as error:
                errors[f"{type(error).__name__}: {str(error)[:200]}"] += 1

    await asyncio.gather(*(work() for _ in range(TASKS)))
    for engine in engines:
        await engine.dispose()
    return {"done": done, "errors": errors}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(float(sys.argv[1])))))
