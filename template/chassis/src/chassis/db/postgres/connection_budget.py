"""The connections that a service may open, against those that its database allows."""

import logging
from dataclasses import dataclass

from sqlalchemy import text

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..engines import create_probe_engine
from ..sqlite.pragmas import report_version
from .options import ENCODING_ADVICE, encoding_warning, uses_pgbouncer

logger = logging.getLogger(__name__)

# A migration takes one for its lock and one for its work.
MIGRATION_CONNECTIONS = 2

_ALLOWED = text("""
    SELECT least(
        current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0),
        nullif(rolconnlimit, -1),
        nullif(datconnlimit, -1)
    ), current_setting('server_encoding')
    FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
""")
_PROCESS = text("SELECT pg_backend_pid()")


@dataclass(frozen=True)
class Budget:
    """What a service needs of one server, and what that allows its role and database."""

    target: DatabaseTarget
    needed: int
    allowed: int
    pooled: bool
    encoding: str

    @property
    def fits(self) -> bool:
        """Return whether the server can serve all at once; a pooler shares what it has."""
        return self.pooled or self.needed <= self.allowed


async def report_budget(settings: DatabaseSettings, *, processes: int) -> None:
    """Log the budget of each server, or SQLite's version, with a warning where it does not fit.

    Logs nothing of a server that does not answer: readiness does.
    """
    if settings.database_target.backend == "sqlite":
        report_version(processes)
    for target, needed in needs(settings, processes=processes):
        try:
            _log(settings, await ask_budget(settings, target, needed))
        except Exception:
            logger.debug("the connections that %s allows are not known", target.masked)


def needs(settings: DatabaseSettings, *, processes: int) -> list[tuple[DatabaseTarget, int]]:
    """Count the connections that all processes may open to each PostgreSQL server."""
    primary, replica = settings.database_target, settings.database_read_target
    if primary.backend != "postgres":
        return []
    # And one for the readiness probe.
    writes = settings.database_pool_size + settings.database_max_overflow + 1
    reads = settings.read_pool_size
    if replica is primary:
        return [(primary, processes * (writes + reads) + MIGRATION_CONNECTIONS)]
    stands_in = reads if settings.database_read_fallback else 0
    needed = processes * (writes + stands_in) + MIGRATION_CONNECTIONS
    return [(primary, needed), (replica, processes * reads)]


async def ask_budget(settings: DatabaseSettings, target: DatabaseTarget, needed: int) -> Budget:
    """Ask a server what it allows, and whether a transaction pooler stands before it.

    Such a pooler is told by two idle connections that share a server process.
    """
    # As behind a pooler: with what a pooler breaks, this could not ask whether there is one.
    cautious = settings.model_copy(update={"database_pgbouncer": True})
    engine = create_probe_engine(cautious, target, pool_size=2)
    try:
        async with engine.connect() as one, engine.connect() as other:
            allowed, encoding = (await one.execute(_ALLOWED)).one()
            seen = [(await one.scalar(_PROCESS), await other.scalar(_PROCESS)) for _ in range(3)]
    finally:
        await engine.dispose()
    pooled = len(set(seen)) > 1 or len(set(seen[0])) == 1
    return Budget(target, needed, allowed, pooled, encoding)


def _log(settings: DatabaseSettings, budget: Budget) -> None:
    where = budget.target.masked
    if warning := encoding_warning(budget.encoding):
        logger.warning("%s: %s; %s", where, warning, ENCODING_ADVICE)
    if budget.pooled and not uses_pgbouncer(settings, budget.target):
        logger.warning(
            "%s is behind a transaction pooler, which breaks prepared statements: "
            "set APP_DATABASE_PGBOUNCER=true",
            where,
        )
    if budget.fits:
        logger.info("up to %d connections to %s", budget.needed, _of(budget))
        return
    logger.warning(
        "up to %d connections to %s: lower APP_DATABASE_POOL_SIZE or APP_DATABASE_READ_POOL_SIZE, "
        "run fewer workers, raise the server's max_connections, or put PgBouncer before it",
        budget.needed,
        _of(budget),
    )


def _of(budget: Budget) -> str:
    limit = "shared by a pooler" if budget.pooled else f"which allows {budget.allowed}"
    return f"{budget.target.masked}, {limit}"
