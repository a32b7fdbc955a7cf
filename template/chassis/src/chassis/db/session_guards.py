"""What a session refuses, and what it warns of: writes left, transactions held too long."""

import logging
import re
import warnings
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy import Connection, Executable, TextClause, event
from sqlalchemy.exc import DBAPIError, MissingGreenlet, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction
from sqlalchemy.sql.expression import UpdateBase

from .errors import (
    ReadOnlySessionError,
    UncommittedChangesWarning,
    sqlite_error_name,
    sqlstate,
)
from .statements import current_stats

logger = logging.getLogger(__name__)

_UNCOMMITTED_KEY = "chassis_uncommitted"
_WRITING_SQL = re.compile(r"\s*(insert|update|delete|merge|replace)\b", re.IGNORECASE)
_FAILED_KEY = "chassis_failed"
_BEGIN_KEY = "chassis_began"
_SNAPSHOT_KEY = "chassis_snapshot"
# A transaction that spends longer outside of the database is warned of: it holds a connection.
HELD_TRANSACTION_SECONDS = 1.0


def has_uncommitted_changes(session: AsyncSession) -> bool:
    """Return whether a session has something to write, or has written and not committed it."""
    # The asynchronous session passes each of these on, in several times the time.
    wrapped = session.sync_session
    changed = any(map(wrapped.is_modified, wrapped.dirty))
    return bool(changed or wrapped.new or wrapped.deleted or _UNCOMMITTED_KEY in wrapped.info)


def warn_of_uncommitted_changes(session: AsyncSession, request: str, handler: object) -> None:
    """Warn, each time, if the handler of a request left something that it wrote uncommitted."""
    if has_uncommitted_changes(session):
        code = getattr(handler, "__code__", None)
        # `warn` would say it once in the life of the process.
        warnings.warn_explicit(
            f"{request} ended without committing what it wrote, and it was rolled back: "
            "await session.commit() in the handler",
            UncommittedChangesWarning,
            filename=code.co_filename if code else __file__,
            lineno=code.co_firstlineno if code else 1,
        )


class _Session(Session):
    """Checks each statement before it runs.

    A listener of `do_orm_execute` would make SQLAlchemy prepare each statement twice.
    """

    def execute(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        self._check_statement(statement, options)
        try:
            return super().execute(statement, *arguments, **options)
        except DBAPIError as error:
            self._note_failure(error)
            raise

    def scalar(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        self._check_statement(statement, options)
        try:
            return super().scalar(statement, *arguments, **options)
        except DBAPIError as error:
            self._note_failure(error)
            raise

    def scalars(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        self._check_statement(statement, options)
        try:
            return super().scalars(statement, *arguments, **options)
        except DBAPIError as error:
            self._note_failure(error)
            raise

    def _check_statement(self, statement: Any, options: Mapping[str, Any]) -> None:
        # Only a lazy load comes from outside; the listener can tell which attribute it is for.
        if not _may_await():
            event.listen(self, "do_orm_execute", _explain_lazy_load)

    def _note_failure(self, error: DBAPIError) -> None:
        """Do nothing: a session that only reads is in no transaction."""


class WriteSession(_Session):
    """Remembers whether something was written and not yet committed, and whether that failed."""

    def _check_statement(self, statement: Any, options: Mapping[str, Any]) -> None:
        super()._check_statement(statement, options)
        _refuse_failed_transaction(self)
        is_text = isinstance(statement, TextClause)
        if _WRITING_SQL.match(statement.text) if is_text else isinstance(statement, UpdateBase):
            self.info[_UNCOMMITTED_KEY] = True

    def _note_failure(self, error: DBAPIError) -> None:
        """Remember the transaction in which the database refused a statement."""
        transaction = self.get_nested_transaction() or self.get_transaction()
        if transaction is not None and (sqlstate(error) or sqlite_error_name(error.orig)):
            self.info[_FAILED_KEY] = transaction


class ReadSession(_Session):
    """Refuses what an AUTOCOMMIT connection must not or can't do, before the driver sees it."""

    def _check_statement(self, statement: Any, options: Mapping[str, Any]) -> None:
        super()._check_statement(statement, options)
        if not isinstance(statement, Executable):
            return
        if isinstance(statement, UpdateBase):
            raise ReadOnlySessionError
        for given in (options.get("execution_options", {}), statement.get_execution_options()):
            if given.get("stream_results") or given.get("yield_per"):
                self.begin_snapshot()

    def begin_snapshot(self) -> None:
        """Read in a transaction from here on: a cursor of PostgreSQL's lives in one.

        A stream of SQLite's sees one snapshot anyway, and holds up no writer.
        """
        if self.get_bind().dialect.name == "postgresql" and _SNAPSHOT_KEY not in self.info:
            # Nothing was begun so far; this returns the connection.
            self.commit()
            self.connection(execution_options={"isolation_level": "REPEATABLE READ"})

    def connection(self, bind_arguments: Any = None, execution_options: Any = None) -> Connection:
        """Return the session's connection; one with options may be in a transaction."""
        if execution_options:
            self.info[_SNAPSHOT_KEY] = True
        return super().connection(bind_arguments, execution_options)

    @property
    def in_server_transaction(self) -> bool:
        """Whether the database has to be told when the session ends."""
        return _SNAPSHOT_KEY in self.info or not self.get_bind().dialect.skip_autocommit_rollback


@event.listens_for(WriteSession, "after_flush")
def _mark_uncommitted(session: Session, context: UOWTransaction) -> None:
    session.info[_UNCOMMITTED_KEY] = True


@event.listens_for(WriteSession, "after_begin")
def _mark_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if transaction.parent is None and (current := current_stats.get()) is not None:
        session.info[_BEGIN_KEY] = perf_counter(), current.seconds


@event.listens_for(WriteSession, "before_commit")
def _refuse_failed_transaction(session: Session) -> None:
    """Raise for a transaction of which PostgreSQL would keep nothing, its COMMIT without an error.

    SQLite would keep what did not fail.
    """
    if _FAILED_KEY in session.info:
        raise PendingRollbackError(
            "a statement of this transaction failed before, so that nothing of it can be "
            "committed: await session.rollback() first; or run what may fail in "
            "`async with session.begin_nested():`, which undoes that alone"
        )


@event.listens_for(WriteSession, "after_transaction_end")
def _clear_marks(session: Session, transaction: SessionTransaction) -> None:
    if session.info.get(_FAILED_KEY) is transaction:
        del session.info[_FAILED_KEY]
    if transaction.parent is None:
        session.info.pop(_UNCOMMITTED_KEY, None)
        if (began := session.info.pop(_BEGIN_KEY, None)) is not None:
            _warn_of_held_transaction(*began)


def _warn_of_held_transaction(began: float, database_seconds_before: float) -> None:
    """Log a warning if a transaction was open for long while the database had nothing to do."""
    current = current_stats.get()
    if current is None:
        return
    inside = current.seconds - database_seconds_before
    outside = perf_counter() - began - inside
    if outside >= HELD_TRANSACTION_SECONDS:
        logger.warning(
            "%s held its transaction for %.1f s, %.1f s of it in the database: wait for anything "
            "else before its first statement, or after the commit",
            current.name,
            inside + outside,
            inside,
        )


@event.listens_for(ReadSession, "after_transaction_end")
def _end_snapshot(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_SNAPSHOT_KEY, None)


@event.listens_for(ReadSession, "before_flush")
def _refuse_flush(session: Session, context: UOWTransaction, instances: object) -> None:
    raise ReadOnlySessionError


def _may_await() -> bool:
    """Return whether an asynchronous session called, whose greenlets can wait for the database."""
    return getcurrent().parent is not None


def _explain_lazy_load(state: ORMExecuteState) -> None:
    """Raise with advice where SQLAlchemy would say that greenlet_spawn has not been called."""
    if _may_await() or not (state.is_relationship_load or state.is_column_load):
        return
    owner = state.bind_mapper.class_.__name__ if state.bind_mapper else "an object"
    name = getattr(state.loader_strategy_path, "prop", f"a column of {owner}")
    raise MissingGreenlet(
        f"{name} was not loaded with its object, or a rollback has expired it, and an attribute "
        "can't wait for the database: "
        "name it in the query, .options(selectinload(…)) or undefer(…), "
        "or await session.refresh(object, [attribute])"
    )
