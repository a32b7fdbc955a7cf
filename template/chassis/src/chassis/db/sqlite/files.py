"""The file of a SQLite database: its folder, whether it is still the one that was opened."""

import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext

from ..errors import (
    SQLITE_FILE_FAILURES,
    DatabaseSettingsError,
    ReplacedFileError,
    sqlite_error_name,
)


def prepare_folder(file: Path, variable: str) -> None:
    """Make the folder of a SQLite file that a variable names.

    Raise DatabaseSettingsError if this user can't write to the folder.
    """
    folder = file.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Tried and not asked: root may write everywhere, but for a read-only file system.
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        user = os.getuid() if hasattr(os, "getuid") else "unknown"
        raise DatabaseSettingsError(
            f"{variable}: this user (id {user}) can't write the SQLite folder {folder}; "
            "make it writable or name another file with APP_DATABASE_SQLITE_PATH"
        ) from error


def refuse_replaced_file(engine: Engine, file: Path) -> None:
    """Refuse to use a file that was deleted or replaced since the engine was made or connected.

    SQLite goes on with the file that it opened, where nobody finds what is written. What that
    file's WAL holds would be written over a new one, so the process has to be restarted.
    """
    opened = _identify_file(file)

    def check_file(*_: object) -> None:
        if opened is not None and _identify_file(file) != opened:
            raise ReplacedFileError(
                f"the SQLite file {file} was deleted or replaced while it was open: stop the "
                "service, put the right file there, without -wal and -shm, and start it again"
            )

    def note_file(*_: object) -> None:
        nonlocal opened
        opened = opened or _identify_file(file)

    event.listen(engine, "do_connect", check_file)
    event.listen(engine, "connect", note_file)
    event.listen(engine, "checkout", check_file)


def disconnect_after_failure(context: ExceptionContext) -> None:
    """Open a new connection after the file failed: one that was opened read-only stays so.

    A read engine's refusal of a write is no failure of its file.
    """
    name = sqlite_error_name(context.original_exception)
    dialect: Any = context.dialect
    is_refusal = dialect.reads_only and name == "SQLITE_READONLY"
    if name.startswith(SQLITE_FILE_FAILURES) and not is_refusal:
        context.is_disconnect = True


def _identify_file(file: Path) -> tuple[int, int] | None:
    """Return the file system and the number of a file, or None if there is none."""
    try:
        found = os.stat(file)  # noqa: PTH116, at each checkout a third faster than by the path
    except OSError:
        return None
    return found.st_dev, found.st_ino
