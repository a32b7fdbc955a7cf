"""The table of jobs: what waits, what runs, and for some days what has ended."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from ..db.base import Base
from ..db.errors import InvalidValueError


class JobState(StrEnum):
    """What a job is at. The last three are ends; only `dead` wants somebody to look at it."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


def _partial_index(name: str, where: str, *columns: str, unique: bool = False) -> Index:
    """Return an index of some rows alone: a million others cost it nothing."""
    condition = text(where)
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


class JobRecord(Base):
    """A job: which function, its arguments, when it is due, and what became of it."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    queue: Mapped[str] = mapped_column(String(100))
    # The smaller comes first.
    priority: Mapped[int]
    arguments: Mapped[dict[str, Any]]
    # The headers of the request that enqueued it: its id, and the trace.
    context: Mapped[dict[str, str]]
    # While a job waits for the first time, no other has its name and key.
    key: Mapped[str | None] = mapped_column(String(200))

    state: Mapped[str] = mapped_column(String(20))
    run_at: Mapped[datetime]
    # Runs that count: one that was given back at a stop does not.
    attempts: Mapped[int]
    # How often it was claimed: whoever holds an older number has lost it.
    fence: Mapped[int]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # The kind of the last error and where it was raised, without values.
    error: Mapped[str | None] = mapped_column(String(500))

    __table_args__ = (
        _partial_index("ix_jobs_waiting", "state = 'waiting'", "queue", "priority", "run_at"),
        _partial_index("ix_jobs_running", "state = 'running'", "lease_until"),
        _partial_index("ix_jobs_finished", "finished_at IS NOT NULL", "state", "finished_at"),
        # Those that have a key and have not ended.
        _partial_index("ix_jobs_key", "key IS NOT NULL AND finished_at IS NULL", "name", "key"),
        _partial_index(
            *("uq_jobs_key", "key IS NOT NULL AND state = 'waiting' AND fence = 0", "name", "key"),
            unique=True,
        ),
        # An id is told to others: that of a job which was deleted is not given again.
        {"sqlite_autoincrement": True},
    )


JOBS = JobRecord.metadata.tables[JobRecord.__tablename__]


def check_length(name: str, text: str) -> None:
    """Raise InvalidValueError for what a column has no room for; SQLite would take it."""
    column: Any = JOBS.c[name].type
    if len(text) > column.length:
        raise InvalidValueError(
            f"the {name} of a job has {column.length} characters at most, not {len(text)}: "
            f"{text[:20]}…"
        )
