"""The database layer: settings, engines, sessions, models' base and migrations."""

from .address.settings import DatabaseSettings
from .base import Base
from .engines import create_database_engine, create_read_engine
from .errors import DatabaseUnavailableError, ReadOnlySessionError
from .migrations import run_migrations
from .request_sessions import DbReadSession, DbSession, get_db_read_session, get_db_session
from .sessions import create_session_factory, session_scope
from .transaction import run_transaction

__all__ = [
    "Base",
    "DatabaseSettings",
    "DatabaseUnavailableError",
    "DbReadSession",
    "DbSession",
    "ReadOnlySessionError",
    "create_database_engine",
    "create_read_engine",
    "create_session_factory",
    "get_db_read_session",
    "get_db_session",
    "run_migrations",
    "run_transaction",
    "session_scope",
]
