"""Statements: how many ran and how long they took, for each request; and the slow ones, logged."""

import logging
from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.pool import PoolProxiedConnection

logger = logging.getLogger(__name__)


class StatementStats:
    """What was asked of databases: a number of statements, the time in them and in commits."""

    __slots__ = ("count", "scopes", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        # The sessions that are open meanwhile, of `session_scope`.
        self.scopes: set[Any] = set()

    @property
    def name(self) -> str:
        """What the statements are for."""
        return "this process"

    def add(self, count: int, seconds: float) -> None:
        """Count something that has run."""
        self.count += count
        self.seconds += seconds


# Those of the whole process, and of what runs now where someone counts, such as a request.
PROCESS_STATS = StatementStats()
current_stats: ContextVar[StatementStats | None] = ContextVar("chassis_statements", default=None)


class TimesCommits(DefaultDialect):
    """A dialect that times its commits, of which no event tells."""

    slow_commit_seconds = 0.0

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        started = perf_counter()
        try:
            super().do_commit(dbapi_connection)  # type: ignore[no-untyped-call]
        finally:
            _record_time(0, perf_counter() - started, "COMMIT", self.slow_commit_seconds)


def observe_statements(engine: Engine, slow_seconds: float) -> None:
    """Count and time an engine's statements; log the slow ones, without their values.

    With a listener for its cursors an engine does a lot more for every statement.
    """
    dialect = engine.dialect
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, name, _time_execution(getattr(dialect, name), slow_seconds))
    if isinstance(dialect, TimesCommits):
        dialect.slow_commit_seconds = slow_seconds


def _time_execution(execute: Callable[..., None], slow_seconds: float) -> Callable[..., bool]:
    def execute_timed(cursor: DBAPICursor, statement: str, *arguments: Any) -> bool:
        started = perf_counter()
        try:
            execute(cursor, statement, *arguments)
        finally:
            _record_time(1, perf_counter() - started, statement, slow_seconds)
        # It is executed; the engine need not.
        return True

    return execute_timed


def _record_time(count: int, seconds: float, statement: str, slow_seconds: float) -> None:
    PROCESS_STATS.add(count, seconds)
    if (current := current_stats.get()) is not None:
        current.add(count, seconds)
    if seconds >= slow_seconds > 0:
        text = " ".join(statement.split())[:2000]
        logger.warning("slow statement, %.0f ms: %s", seconds * 1000, text)
