"""What can go wrong with a database, and what each driver's error means.

Exception
├── DatabaseUnavailableError    it can't be reached, or can't serve now
│   └── ReplacedFileError       the SQLite file is another one since it was opened
├── DatabaseSettingsError       a setting must be put right first (also a ValueError)
├── InvalidValueError           a value that a column can't hold (also a ValueError)
│   └── TimeZoneError           a datetime's time zone would be lost, or guessed
├── ReadOnlySessionError        a write through a read session
├── NestedWriteScopeError       a second write scope that could never start
└── SessionPlanError            a route that can't be served with one session
Warning
└── UncommittedChangesWarning   a handler ended without committing what it wrote
"""

import re
from collections.abc import Iterator
from datetime import date, time
from enum import Enum

from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError


class DatabaseUnavailableError(Exception):
    """The database can't be reached, or answered that it can't serve now."""


class ReplacedFileError(DatabaseUnavailableError):
    """The SQLite file was deleted or replaced while it was open: only a restart helps."""


class DatabaseSettingsError(ValueError):
    """A database setting is wrong; the message names the variable and how to set it."""


class InvalidValueError(ValueError):
    """A value can't be stored in a column of its type, whatever the column's table holds."""


class TimeZoneError(InvalidValueError):
    """A date or time has no time zone and its column needs one, or the reverse."""

    def __init__(self, value: date | time) -> None:
        if getattr(value, "tzinfo", None) is None:
            message = "a naive datetime can't be stored: use datetime.now(UTC)"
        else:
            message = "the column would lose the time zone: use DateTime(timezone=True)"
        super().__init__(message)
        self.value = value


class ReadOnlySessionError(Exception):
    """Something that only a write session can do was asked of a read session."""

    def __init__(self, message: str = "a read session can't write: take DbSession instead") -> None:
        super().__init__(message)


class NestedWriteScopeError(Exception):
    """A task opened a second write scope on SQLite while it holds one: it would wait for itself."""


class SessionPlanError(Exception):
    """A route whose session can't be planned, and what to change in it."""


class UncommittedChangesWarning(UserWarning):
    """A handler ended without an error and without committing what it wrote."""


# What SQLAlchemy puts before the text of asyncpg.
_DRIVER_CLASS = re.compile(r"^<class '[\w.]+'>: ")
# Such as `invalid input syntax for type date: "…"`.
_QUOTED_VALUE = re.compile(r"(: ?)['\"].*")


class Failure(Enum):
    """What a database error means to a caller."""

    UNAVAILABLE = "unavailable"
    CONFLICT = "conflict"
    STALE = "stale"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    READ_ONLY = "read-only"


READ_ONLY_TRANSACTION = "25006"
UNDEFINED_TABLE = "42P01"
# The file of SQLite or its disk: full, read-only, broken, or no database.
SQLITE_FILE_FAILURES = (
    "SQLITE_CANTOPEN",
    "SQLITE_CORRUPT",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_NOTADB",
    "SQLITE_READONLY",
)
# By how codes begin: https://www.postgresql.org/docs/current/errcodes-appendix.html and
# https://www.sqlite.org/rescode.html, extended codes by name.
_FAILURES = {
    "08": Failure.UNAVAILABLE,  # connection_exception
    "22001": Failure.INVALID,  # string_data_right_truncation
    "22003": Failure.INVALID,  # numeric_value_out_of_range
    "22007": Failure.INVALID,  # invalid_datetime_format
    "22008": Failure.INVALID,  # datetime_field_overflow
    "2201W": Failure.INVALID,  # invalid_row_count_in_limit_clause
    "2201X": Failure.INVALID,  # invalid_row_count_in_result_offset_clause
    "22021": Failure.INVALID,  # character_not_in_repertoire
    "22P02": Failure.INVALID,  # invalid_text_representation: no member of an enum
    "22P05": Failure.INVALID,  # untranslatable_character
    "23503": Failure.CONFLICT,  # foreign_key_violation
    "23505": Failure.CONFLICT,  # unique_violation
    "23P01": Failure.CONFLICT,  # exclusion_violation
    READ_ONLY_TRANSACTION: Failure.READ_ONLY,
    "40001": Failure.UNAVAILABLE,  # serialization_failure
    "40P01": Failure.UNAVAILABLE,  # deadlock_detected
    "53100": Failure.UNAVAILABLE,  # disk_full
    "53300": Failure.UNAVAILABLE,  # too_many_connections
    "55P03": Failure.UNAVAILABLE,  # lock_not_available
    "57014": Failure.TIMEOUT,  # query_canceled
    "57P0": Failure.UNAVAILABLE,  # admin_shutdown and its like
    "SQLITE_BUSY": Failure.UNAVAILABLE,
    "SQLITE_CONSTRAINT_FOREIGNKEY": Failure.CONFLICT,
    "SQLITE_CONSTRAINT_PRIMARYKEY": Failure.CONFLICT,
    "SQLITE_CONSTRAINT_ROWID": Failure.CONFLICT,
    "SQLITE_CONSTRAINT_UNIQUE": Failure.CONFLICT,
    "SQLITE_LOCKED": Failure.UNAVAILABLE,
    **dict.fromkeys(SQLITE_FILE_FAILURES, Failure.UNAVAILABLE),
}

# Raised for a value that is at fault, and not for its type.
_VALUE_ERRORS = (OverflowError, UnicodeEncodeError, InvalidValueError)

# invalid_authorization_specification, invalid_catalog_name: no other server and no waiting helps.
PERMANENT_SQLSTATES = ("28", "3D")
# Damaged, or no database: writing to such a file makes it worse.
BROKEN_FILE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def classify(error: BaseException) -> Failure | None:
    """Return what an error means to a caller of the database, or None if it is a bug."""
    if isinstance(error, DatabaseUnavailableError | PoolTimeoutError):
        return Failure.UNAVAILABLE
    if isinstance(error, ReadOnlySessionError):
        return Failure.READ_ONLY
    if isinstance(error, StaleDataError):
        return Failure.STALE
    if find_invalid_value(error) is not None:
        return Failure.INVALID
    if not isinstance(error, DBAPIError):
        return None
    if error.connection_invalidated:
        return Failure.UNAVAILABLE
    code = sqlstate(error) or sqlite_error_name(error.orig)
    return next((_FAILURES[known] for known in _FAILURES if code.startswith(known)), None)


def is_transient(error: BaseException) -> bool:
    """Return whether the same work may succeed if it is done again later.

    True for all that a request is answered with 503 for, except for what waiting can't cure: a
    refused password, a missing database, a SQLite file that is broken or was replaced. Of a group
    all errors must be so.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_transient, error.exceptions))
    causes = _iterate_causes(error)
    return classify(error) is Failure.UNAVAILABLE and not any(map(_is_permanent, causes))


def is_missing_table(error: BaseException) -> bool:
    """Return whether a statement named a table that the database does not have (yet).

    Of a group all errors must be so.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_missing_table, error.exceptions))
    if not isinstance(error, DBAPIError):
        return False
    return sqlstate(error) == UNDEFINED_TABLE or str(error.orig).startswith("no such table")


def find_invalid_value(error: BaseException) -> Exception | None:
    """Return the error that refused a value before it reached the server, or None.

    asyncpg raises one error for all that it can't encode: a value of the wrong type is a bug, a
    value out of range is not.
    """
    if isinstance(error, InvalidValueError):
        return error
    if not isinstance(error, StatementError):
        return None
    return next(
        (cause for cause in _iterate_causes(error.orig) if isinstance(cause, _VALUE_ERRORS)), None
    )


def translate_refused_value(context: ExceptionContext) -> None:
    """Raise InvalidValueError for a value that a driver refuses with an error of Python's.

    SQLite's driver does so for an integer above 64 bits, and for half of a surrogate pair.
    """
    refusal = context.original_exception
    if context.sqlalchemy_exception is None and isinstance(refusal, _VALUE_ERRORS):
        raise InvalidValueError(f"the driver refuses a value: {type(refusal).__name__}")


def sqlstate(error: DBAPIError) -> str:
    """Return PostgreSQL's five-character code, or an empty string if there is none."""
    return getattr(error.orig, "sqlstate", None) or ""


def sqlite_error_name(error: BaseException | None) -> str:
    """Return SQLite's extended error code by name, or an empty string if there is none."""
    return getattr(error, "sqlite_errorname", None) or ""


def describe_error(error: BaseException) -> str:
    """Return the first line of what the driver says, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    line = _DRIVER_CLASS.sub("", str(cause)).strip().partition("\n")[0]
    line = _QUOTED_VALUE.sub(r"\1***", line.partition(" (Background on this error")[0])
    if not line and isinstance(cause, TimeoutError):
        return "no answer in time"
    return line or type(cause).__name__


def _is_permanent(error: BaseException) -> bool:
    code = getattr(error, "sqlstate", None) or ""
    is_broken = sqlite_error_name(error).startswith(BROKEN_FILE)
    return is_broken or code.startswith(PERMANENT_SQLSTATES) or isinstance(error, ReplacedFileError)


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "orig", None) or error.__cause__
