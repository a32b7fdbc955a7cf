"""SQLite's dialects, which store a value as the chassis's PostgreSQL does, or refuse it."""

from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from ..column_types import SQLITE_TYPES, replace_types
from ..dialects import RefusesRowLocks, Serving, StrictJSON
from .compilers import ChassisSQLiteCompiler, ChassisSQLiteDDLCompiler, ChassisSQLiteTypeCompiler


class _ServingCompiler(RefusesRowLocks, ChassisSQLiteCompiler):
    pass


class ChassisAiosqlite(Serving, SQLiteDialect_aiosqlite):
    """SQLite at run time."""

    supports_statement_cache = True
    colspecs = replace_types(SQLiteDialect_aiosqlite.colspecs, SQLITE_TYPES)
    statement_compiler = _ServingCompiler
    ddl_compiler = ChassisSQLiteDDLCompiler
    type_compiler_cls = ChassisSQLiteTypeCompiler


class ChassisPysqlite(StrictJSON, SQLiteDialect_pysqlite):
    """SQLite in migrations."""

    supports_statement_cache = True
    colspecs = replace_types(SQLiteDialect_pysqlite.colspecs, SQLITE_TYPES)
    statement_compiler = ChassisSQLiteCompiler
    ddl_compiler = ChassisSQLiteDDLCompiler
    type_compiler_cls = ChassisSQLiteTypeCompiler
