"""The database layer: settings, engines, sessions, models' base and migrations."""

from .address.settings import DatabaseSettings
from .base import NAMING_CONVENTION, POSTGRES_NAMES, Base
from .conflicts import Conflict, conflict, find_conflict
from .engines import create_database_engine, create_read_engine
from .errors import DatabaseUnavailableError, ReadOnlySessionError, is_missing_table, is_transient
from .migrations.environment import run_migrations
from .request_sessions import (
    DbReadSession,
    DbSession,
    DbSessions,
    get_db_read_session,
    get_db_session,
    get_db_sessions,
)
from .rows import fetch_dicts
from .session_factories import create_session_factory, open_sessions
from .sessions import SessionFactory, Sessions, session_scope
from .transaction import run_transaction

__all__ = [
    "NAMING_CONVENTION",
    "POSTGRES_NAMES",
    "Base",
    "Conflict",
    "DatabaseSettings",
    "DatabaseUnavailableError",
    "DbReadSession",
    "DbSession",
    "DbSessions",
    "ReadOnlySessionError",
    "SessionFactory",
    "Sessions",
    "conflict",
    "create_database_engine",
    "create_read_engine",
    "create_session_factory",
    "fetch_dicts",
    "find_conflict",
    "get_db_read_session",
    "get_db_session",
    "get_db_sessions",
    "is_missing_table",
    "is_transient",
    "open_sessions",
    "run_migrations",
    "run_transaction",
    "session_scope",
]
