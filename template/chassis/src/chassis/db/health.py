"""Readiness of the database: it answers, and its schema is not older than the code."""

import asyncio
import logging
import time
from collections.abc import Iterable
from functools import partial

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from .engine import create_probe_engine
from .errors import sqlstate
from .settings import DatabaseSettings

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 2.0
SHARED_FOR_SECONDS = 1.0

_CURRENT = text("SELECT version_num FROM alembic_version")


class DatabaseProbe:
    """Answers whether requests can be served; all probes of one second share one answer.

    It has one connection of its own, so that a full request pool does not look like an outage.
    """

    def __init__(self, settings: DatabaseSettings, package: str) -> None:
        self._settings = settings
        self._package = package
        self._engine: AsyncEngine = create_probe_engine(settings)
        self._lock = asyncio.Lock()
        self._schema_is_current = False
        self._answer: str | None = None
        self._expires = 0.0

    async def check(self) -> str | None:
        """Give None when ready, else the reason in a few words, without any detail of the error."""
        async with self._lock:
            if time.monotonic() >= self._expires:
                self._answer = await self._ask()
                self._expires = time.monotonic() + SHARED_FOR_SECONDS
            return self._answer

    async def dispose(self) -> None:
        """Close the probe's connection."""
        await self._engine.dispose()

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                current = await self.current_revisions()
        except Exception as error:
            logger.warning("the database does not answer: %s", type(error).__name__)
            logger.debug("the error of the readiness probe", exc_info=True)
            return "the database does not answer"
        if not self._schema_is_current:
            load = partial(is_behind, self._package, self._settings, current)
            if await asyncio.to_thread(load):
                return "the database's schema is behind the code: run the migrations"
            self._schema_is_current = True
        return None

    async def current_revisions(self) -> frozenset[str]:
        """Give the database's revisions, none where no migration has run."""
        async with self._engine.connect() as connection:
            try:
                return frozenset((await connection.scalars(_CURRENT)).all())
            except DBAPIError as error:
                if _is_missing_table(error):
                    return frozenset()
                raise


def is_behind(package: str, settings: DatabaseSettings, current: Iterable[str]) -> bool:
    """Say whether the code knows a later revision; a database newer than the code is not behind."""
    from alembic.script import ScriptDirectory

    from .migrations.upgrade import alembic_config

    scripts = ScriptDirectory.from_config(alembic_config(package, settings))
    known = {script.revision for script in scripts.walk_revisions()}
    current = set(current)
    return not set(scripts.get_heads()) <= current and current <= known


def _is_missing_table(error: DBAPIError) -> bool:
    return sqlstate(error) == "42P01" or "no such table" in str(error.orig)
