"""Migrations beside traffic: several short waits for a table, never one long one.

Whoever waits for a table's lock has all later statements on it wait as well. A try therefore ends
after a second, its transaction is rolled back, and the traffic that queued up passes.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseUnavailableError, sqlite_error_name, sqlstate

if TYPE_CHECKING:
    from ..address.settings import DatabaseSettings

logger = logging.getLogger(__name__)

TRY_SECONDS = 1.0
_SHORTEST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 5.0
_BUSY_SQLSTATES = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_CONCURRENTLY = re.compile(r"\bCONCURRENTLY\b", re.IGNORECASE)


@dataclass
class Attempt:
    """One run of the revisions."""

    may_commit: bool = False
    has_committed: bool = False

    def end_revision(self, **step: object) -> None:
        """Expect a commit: Alembic calls it when a revision has run, as `on_version_apply`."""
        self.may_commit, self.has_committed = True, False


def retry_while_busy(settings: "DatabaseSettings", migrate: Callable[[Attempt], None]) -> None:
    """Migrate, and again if a table was in use, for `APP_DATABASE_WAIT_SECONDS` at most.

    A revision that has committed a part of itself is not tried again: that part would run twice.
    Raise DatabaseUnavailableError if it does not succeed.
    """
    deadline = time.monotonic() + settings.database_wait_seconds
    pause = _SHORTEST_PAUSE_SECONDS
    while True:
        attempt = Attempt()
        try:
            migrate(attempt)
            return
        except DBAPIError as error:
            # SQLite has waited by itself.
            is_file = sqlite_error_name(error.orig).startswith("SQLITE_BUSY")
            if not is_file and sqlstate(error) not in _BUSY_SQLSTATES:
                raise
            if attempt.has_committed:
                raise DatabaseUnavailableError(_PARTLY_COMMITTED) from error
            if is_file or time.monotonic() + pause > deadline:
                what, seconds = "the file" if is_file else "a table", settings.database_wait_seconds
                raise DatabaseUnavailableError(
                    f"{what} was in use for {seconds:g} seconds: migrate again, or raise "
                    "APP_DATABASE_WAIT_SECONDS"
                ) from error
        logger.warning("a table is in use: the next try in %g seconds", pause)
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


_PARTLY_COMMITTED = (
    "a table is in use, and the revision has committed a part of itself (autocommit_block): see "
    "what is there before it is migrated again"
)


def attempt_lock_timeout(settings: "DatabaseSettings") -> float:
    """Return how many seconds a statement of a transaction may wait for a table."""
    return min(settings.database_lock_timeout_seconds or TRY_SECONDS, TRY_SECONDS)


def track_commits(connection: Connection, attempt: Attempt) -> None:
    """Note in `attempt` a commit in the middle of a revision, as `autocommit_block` makes it."""

    @event.listens_for(connection, "commit")
    def note_commit(connection: Connection) -> None:
        if not attempt.may_commit:
            attempt.has_committed = True

    @event.listens_for(connection, "begin")
    def begin_revision(connection: Connection) -> None:
        attempt.may_commit = False


def set_lock_timeouts(connection: Connection, settings: "DatabaseSettings") -> None:
    """Raise the lock timeout of each statement outside a transaction: it is not tried again.

    CONCURRENTLY waits for all transactions that are open, and nobody waits for it.
    """
    current: float | None = None

    @event.listens_for(connection, "before_cursor_execute")
    def set_lock_timeout(
        connection: Connection, cursor: Any, statement: str, *arguments: object
    ) -> None:
        nonlocal current
        wanted: float | None = None
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            is_concurrent = _CONCURRENTLY.search(statement)
            wanted = (
                settings.database_wait_seconds
                if is_concurrent
                else settings.database_lock_timeout_seconds
            )
        if wanted != current:
            value = "DEFAULT" if wanted is None else round(wanted * 1000)
            cursor.execute(f"SET lock_timeout = {value}")
            current = wanted
