"""Readiness of the database: it answers, and its schema is not older than the code."""

import asyncio
import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from .address.settings import DatabaseSettings
from .engines import create_probe_engine
from .errors import (
    BROKEN_FILE,
    SQLITE_FILE_FAILURES,
    DatabaseUnavailableError,
    describe_error,
    sqlite_error_name,
)
from .migrations.revisions import CodeRevisions, SchemaState, read_code_revisions

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 2.0
SHARED_FOR_SECONDS = 1.0

_WRITABLE_BYTES = 1024 * 1024


class DatabaseProbe:
    """Tells whether requests can be served; all probes of one second share one answer.

    The probe has a connection of its own, so that a full request pool does not look like an outage.
    """

    def __init__(self, settings: DatabaseSettings, package: str) -> None:
        self._settings = settings
        self._package = package
        self._engine: AsyncEngine = create_probe_engine(settings)
        self._lock = asyncio.Lock()
        self._code: CodeRevisions | None = None
        self._file_engines: tuple[AsyncEngine, ...] = ()
        self._file_failure: str | None = None
        self._answer: str | None = None
        self._expires = 0.0

    async def check(self) -> str | None:
        """Return None when ready, else the reason in a few words, without details of an error."""
        async with self._lock:
            if time.monotonic() >= self._expires:
                self._answer = await self._find_reason()
                self._expires = time.monotonic() + SHARED_FOR_SECONDS
            return self._answer

    def watch_file(self, *, write: AsyncEngine, read: AsyncEngine) -> None:
        """Note failures of the SQLite file: a reason until a write succeeds, for good if broken."""
        if write.dialect.name == "sqlite":
            self._file_engines = (write, read)
            for engine in self._file_engines:
                event.listen(engine.sync_engine, "handle_error", self._note_failure)

    async def dispose(self) -> None:
        """Close the probe's connection."""
        await self._engine.dispose()

    async def _find_reason(self) -> str | None:
        try:
            if self._code is None:
                # First, so that nothing is read for a database that is away.
                async with asyncio.timeout(PROBE_TIMEOUT_SECONDS), self._engine.connect():
                    pass
                try:
                    self._code = await asyncio.to_thread(
                        read_code_revisions, self._package, self._settings
                    )
                except Exception as error:
                    logger.warning("the migrations can't be read: %s", error)
                    return "the migrations can't be read"
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                state = await self.compare(self._code)
        except Exception as error:
            logger.warning("the database does not answer: %s", describe_error(error))
            logger.debug("the error of the readiness probe", exc_info=True)
            return "the database does not answer"
        if self._file_failure is not None and not self._file_failure.endswith(BROKEN_FILE):
            await self._try_to_write()
        return state.reason or self._file_failure

    def _note_failure(self, context: ExceptionContext) -> None:
        name = sqlite_error_name(context.original_exception)
        if name.startswith(SQLITE_FILE_FAILURES):
            self._file_failure = f"the database's file fails: {name}"

    async def _try_to_write(self) -> None:
        """Write the file's header as it is, if the disk has room for more than that.

        On new connections: those of a process share what one of them opened read-only.
        """
        file = Path(self._engine.url.database or "")
        if shutil.disk_usage(file.parent).free < _WRITABLE_BYTES:
            return
        write, read = self._file_engines
        with suppress(SQLAlchemyError, DatabaseUnavailableError, TimeoutError):
            for engine in (self._engine, read, write):
                await engine.dispose()
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS), write.begin() as connection:
                found = await connection.exec_driver_sql("PRAGMA user_version")
                await connection.exec_driver_sql(f"PRAGMA user_version={found.scalar_one()}")
            self._file_failure = None

    async def compare(self, code: CodeRevisions) -> SchemaState:
        """Compare the database's revisions, as they are now, with the code's."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(code.compare)
