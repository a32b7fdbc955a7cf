"""The connections that a service may open, against those that its database allows."""

import logging
from dataclasses import dataclass

from sqlalchemy import text

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..engines import create_probe_engine, uses_pgbouncer
from ..sqlite.pragmas import report_version
from .options import ENCODING_ADVICE, encoding_warning

logger = logging.getLogger(__name__)

# A migration takes one for its lock and one for its work.
MIGRATION_CONNECTIONS = 2

_ALLOWED_AND_ENCODING = text("""
    SELECT least(
        current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0),
        nullif(rolconnlimit, -1),
        nullif(datconnlimit, -1)
    ), current_setting('server_encoding')
    FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
""")
_SERVER_PROCESS = text("SELECT pg_backend_pid()")


@dataclass(frozen=True)
class ConnectionBudget:
    """The connections that a service needs of one server, and those that it may have."""

    target: DatabaseTarget
    needed: int
    allowed: int
    pooled: bool
    encoding: str

    @property
    def fits(self) -> bool:
        """Whether the server can serve all at once; a pooler shares what it has."""
        return self.pooled or self.needed <= self.allowed


async def report_budget(settings: DatabaseSettings, *, processes: int) -> None:
    """Log the budget of each server, or SQLite's version, with a warning if it does not fit.

    Of a server that does not answer nothing is logged: readiness does that.
    """
    if settings.database_target.backend == "sqlite":
        report_version(processes)
    for target, needed in required_connections(settings, processes=processes):
        try:
            _log_budget(settings, await query_budget(settings, target, needed))
        except Exception:
            logger.debug("the connections that %s allows are not known", target.masked)


def required_connections(
    settings: DatabaseSettings, *, processes: int
) -> list[tuple[DatabaseTarget, int]]:
    """Return how many connections all processes may open to each PostgreSQL server."""
    primary, replica = settings.database_target, settings.database_read_target
    if primary.backend != "postgres":
        return []
    probe = 1
    writes = settings.database_pool_size + settings.database_max_overflow + probe
    reads = settings.read_pool_size
    if replica is primary:
        return [(primary, processes * (writes + reads) + MIGRATION_CONNECTIONS)]
    fallback_reads = reads if settings.database_read_fallback else 0
    needed = processes * (writes + fallback_reads) + MIGRATION_CONNECTIONS
    return [(primary, needed), (replica, processes * reads)]


async def query_budget(
    settings: DatabaseSettings, target: DatabaseTarget, needed: int
) -> ConnectionBudget:
    """Return what a server allows, and whether a transaction pooler stands before it.

    Behind such a pooler two idle connections share a server process.
    """
    # As if there were a pooler: else the queries would fail behind one.
    cautious = settings.model_copy(update={"database_pgbouncer": True})
    engine = create_probe_engine(cautious, target, pool_size=2)
    try:
        async with engine.connect() as one, engine.connect() as other:
            allowed, encoding = (await one.execute(_ALLOWED_AND_ENCODING)).one()
            seen = [
                (await one.scalar(_SERVER_PROCESS), await other.scalar(_SERVER_PROCESS))
                for _ in range(3)
            ]
    finally:
        await engine.dispose()
    pooled = len(set(seen)) > 1 or len(set(seen[0])) == 1
    return ConnectionBudget(target, needed, allowed, pooled, encoding)


def _log_budget(settings: DatabaseSettings, budget: ConnectionBudget) -> None:
    where = budget.target.masked
    limit = "shared by a pooler" if budget.pooled else f"which allows {budget.allowed}"
    if warning := encoding_warning(budget.encoding):
        logger.warning("%s: %s; %s", where, warning, ENCODING_ADVICE)
    if budget.pooled and not uses_pgbouncer(settings, budget.target):
        logger.warning(
            "%s is behind a transaction pooler, which breaks prepared statements: "
            "set APP_DATABASE_PGBOUNCER=true",
            where,
        )
    if budget.fits:
        logger.info("up to %d connections to %s, %s", budget.needed, where, limit)
        return
    logger.warning(
        "up to %d connections to %s, %s: lower APP_DATABASE_POOL_SIZE or "
        "APP_DATABASE_READ_POOL_SIZE, run fewer workers, raise the "
        "server's max_connections, or put PgBouncer before it",
        budget.needed,
        where,
        limit,
    )
