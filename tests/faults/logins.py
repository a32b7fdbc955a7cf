"""One login by each way that a service has: the application's driver, and that of migrations."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from selectors import DefaultSelector

from chassis.db import create_database_engine, create_read_engine
from chassis.db.address.settings import DatabaseSettings
from chassis.db.errors import DatabaseSettingsError, DatabaseUnavailableError
from chassis.db.migrations.connect import open_connection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

CLOSES_WITHIN_SECONDS = 30
WHO = text("""
    SELECT current_user, current_database(), ssl, current_setting('application_name')
    FROM pg_stat_ssl WHERE pid = pg_backend_pid()
""")


@dataclass(frozen=True)
class Login:
    """What the server says of a connection."""

    user: str
    database: str
    tls: bool
    application: str


Create = Callable[[DatabaseSettings], AsyncEngine]
Outcome = Login | type[DatabaseUnavailableError] | str


def outcomes(settings: DatabaseSettings) -> dict[str, Outcome]:
    """Log in by asyncpg, to write and to read, and by psycopg: a login, a failure or a refusal."""
    return {
        "write": run_until_closed(log_in(settings, create_database_engine)),
        "read": run_until_closed(log_in(settings, create_read_engine)),
        "migrate": log_in_to_migrate(settings),
    }


def run_until_closed(attempt: Coroutine[None, None, Outcome]) -> Outcome:
    """Make an attempt to log in, and end the loop once no socket of it is open.

    asyncpg does not wait for the end of TLS after a refused login, and the server's word of it may
    come after the refusal.
    """
    selector = DefaultSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        outcome = runner.run(attempt)
        runner.run(wait_until_closed(selector))
        return outcome


async def wait_until_closed(selector: DefaultSelector) -> None:
    """Wait until the loop watches nothing but its own pipe."""
    async with asyncio.timeout(CLOSES_WITHIN_SECONDS):
        while len(selector.get_map()) > 1:
            await asyncio.sleep(0.01)


async def log_in(settings: DatabaseSettings, create: Create) -> Outcome:
    """Log in with an engine of the application."""
    try:
        engine = create(settings)
    except DatabaseSettingsError as error:
        return str(error)
    try:
        async with engine.connect() as connection:
            return Login(*(await connection.execute(WHO)).one())
    except DatabaseUnavailableError:
        return DatabaseUnavailableError
    finally:
        await engine.dispose()


def log_in_to_migrate(settings: DatabaseSettings) -> Outcome:
    """Log in as Alembic's environment does."""
    try:
        with open_connection(settings) as connection:
            return Login(*connection.execute(WHO).one())
    except DatabaseSettingsError as error:
        return str(error)
    except DatabaseUnavailableError:
        return DatabaseUnavailableError
