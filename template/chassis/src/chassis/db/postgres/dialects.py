"""PostgreSQL's dialects, which store a value as the chassis's SQLite does, or refuse it."""

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from ..column_types import POSTGRES_TYPES, replace_types
from ..dialects import RefusesRowLocks, Serving, StrictJSON


class _ServingCompiler(RefusesRowLocks, PGDialect_asyncpg.statement_compiler):  # type: ignore[valid-type,misc]
    pass


class ChassisAsyncpg(Serving, PGDialect_asyncpg):
    """PostgreSQL at run time."""

    supports_statement_cache = True
    colspecs = replace_types(PGDialect_asyncpg.colspecs, POSTGRES_TYPES)
    statement_compiler = _ServingCompiler


class ChassisPsycopg(StrictJSON, PGDialect_psycopg):
    """PostgreSQL in migrations."""

    supports_statement_cache = True
    colspecs = replace_types(PGDialect_psycopg.colspecs, POSTGRES_TYPES)
