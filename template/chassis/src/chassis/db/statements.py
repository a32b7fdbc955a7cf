"""Statements: how many ran and how long they took, for each request; and the slow ones, logged."""

import logging
from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from sqlalchemy import Engine

logger = logging.getLogger(__name__)


class StatementStats:
    """What was asked of databases: a number of statements, the time in them and in commits."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

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


def observe_statements(engine: Engine, slow_seconds: float) -> None:
    """Count and time an engine's statements; log the slow ones, without their values.

    The dialect's functions are wrapped: with a listener for its cursors an engine does a lot more
    for every statement, and there is no event after a commit.
    """
    for name in ("do_execute", "do_executemany", "do_execute_no_params", "do_commit"):
        setattr(engine.dialect, name, _timed(getattr(engine.dialect, name), slow_seconds))


def _timed(run: Callable[..., None], slow_seconds: float) -> Callable[..., None]:
    def timed(*arguments: Any) -> None:
        started = perf_counter()
        try:
            run(*arguments)
        finally:
            seconds = perf_counter() - started
            statement = arguments[1] if len(arguments) > 1 else "COMMIT"
            count = 0 if statement == "COMMIT" else 1
            PROCESS_STATS.add(count, seconds)
            if (current := current_stats.get()) is not None:
                current.add(count, seconds)
            if seconds >= slow_seconds > 0:
                text = " ".join(statement.split())[:2000]
                logger.warning("slow statement, %.0f ms: %s", seconds * 1000, text)

    return timed
