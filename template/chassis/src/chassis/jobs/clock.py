"""The clock that all workers share: PostgreSQL's, and on SQLite the machine's that has the file."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, literal
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.base import UTCDateTime

# An index can't be searched by `clock_timestamp`, which changes within a statement.
NOW: ColumnElement[datetime] = func.statement_timestamp(type_=UTCDateTime())


def moment_after(session: AsyncSession, delay: timedelta = timedelta()) -> ColumnElement[datetime]:
    """Return the moment after a delay, by the database's clock."""
    if session.get_bind().dialect.name == "sqlite":
        return literal(datetime.now(UTC) + delay, UTCDateTime())
    return NOW + delay if delay else NOW
