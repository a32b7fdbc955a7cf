"""A transaction that is run again when the database asks for it."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from .errors import describe_error, sqlstate
from .sessions import SessionFactory, session_scope

T = TypeVar("T")
logger = logging.getLogger(__name__)

# serialization_failure and deadlock_detected: nothing was done, and the next try may succeed at
# once. Of what else is transient, a timeout has waited, and a lost COMMIT may have been done.
RETRYABLE_SQLSTATES = ("40001", "40P01")
_PAUSE_SECONDS = 0.01


async def run_transaction(
    factory: SessionFactory,
    work: Callable[[AsyncSession], Awaitable[T]],
    *,
    attempts: int = 5,
    serializable: bool = False,
) -> T:
    """Run `work` in a session of its own, commit, return its result; at most `attempts` times.

    It runs again after a serialization failure or a deadlock, so it must neither commit nor do
    anything besides the database that can't be done twice. `serializable` asks PostgreSQL for that
    isolation level; SQLite has no other. Raise what the last try raised.
    """
    attempt = 1
    while True:
        try:
            async with session_scope(factory) as session:
                if serializable and session.get_bind().dialect.name == "postgresql":
                    await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
                result = await work(session)
                await session.commit()
            return result
        except DBAPIError as error:
            if sqlstate(error) not in RETRYABLE_SQLSTATES or attempt >= attempts:
                raise
            logger.warning(
                "a transaction is run again after try %d of %d: %s",
                *(attempt, attempts, describe_error(error)),
            )
        await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS * 2**attempt))
        attempt += 1
