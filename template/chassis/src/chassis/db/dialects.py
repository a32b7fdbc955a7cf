"""The chassis's dialects: SQLAlchemy's own, which take the same value differently on each database.

What is common to them is here; SQLAlchemy imports the one that an engine's URL names.
"""

from typing import Any

from sqlalchemy import URL
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect

from .column_types import dump_json
from .errors import ReadOnlySessionError
from .statements import TimesCommits

_DIALECTS = {
    "postgresql+asyncpg": "postgresql+chassis_asyncpg",
    "postgresql+psycopg": "postgresql+chassis_psycopg",
    "sqlite+aiosqlite": "sqlite+chassis_aiosqlite",
    "sqlite": "sqlite+chassis_pysqlite",
}
_POSTGRES, _SQLITE = f"{__package__}.postgres.dialects", f"{__package__}.sqlite.dialects"
registry.register("postgresql.chassis_asyncpg", _POSTGRES, "ChassisAsyncpg")
registry.register("postgresql.chassis_psycopg", _POSTGRES, "ChassisPsycopg")
registry.register("sqlite.chassis_aiosqlite", _SQLITE, "ChassisAiosqlite")
registry.register("sqlite.chassis_pysqlite", _SQLITE, "ChassisPysqlite")


def with_chassis_types(url: URL) -> URL:
    """Return the URL with the chassis's dialect for its driver, if there is one."""
    name = _DIALECTS.get(url.drivername)
    return url if name is None else url.set(drivername=name)


class StrictJSON(DefaultDialect):
    """A dialect that refuses a document which a database can't hold."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"json_serializer": dump_json} | options)


class Serving(TimesCommits, StrictJSON):
    """A dialect of the service's own engines: of the one that writes, or of the one that reads."""

    def __init__(self, reads_only: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.reads_only = reads_only


class RefusesRowLocks:
    """A compiler that refuses FOR UPDATE to a read engine; once compiled, a statement is cached."""

    dialect: Any

    def for_update_clause(self, select: Any, **options: Any) -> str:
        """Return the clause. Raise ReadOnlySessionError in a read session."""
        if self.dialect.reads_only:
            raise ReadOnlySessionError("with_for_update() needs a transaction: take DbSession")
        clause: str = super().for_update_clause(select, **options)  # type: ignore[misc]
        return clause
