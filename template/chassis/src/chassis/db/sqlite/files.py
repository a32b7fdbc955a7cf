"""The file of a SQLite database: whether it is still the one that was opened, and can be used."""

import os
from pathlib import Path

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext

from ..errors import SQLITE_FILE_FAILURES, DatabaseUnavailableError, sqlite_error_name

Identity = tuple[int, int] | None


def refuse_replaced_file(engine: Engine, file: Path) -> None:
    """Refuse to use a file that was deleted or replaced since the engine was made or connected.

    SQLite goes on with the file that it opened, where nobody finds again what is written. And what
    the old file's WAL holds would be written over a new one, so the process has to be restarted.
    """
    opened = _identify(file)

    def check_file(*_: object) -> None:
        if opened is not None and _identify(file) != opened:
            raise DatabaseUnavailableError(
                f"the SQLite file {file} was deleted or replaced while it was open: stop the "
                "service, put the right file there, without -wal and -shm, and start it again"
            )

    def note_file(*_: object) -> None:
        nonlocal opened
        opened = opened or _identify(file)

    event.listen(engine, "do_connect", check_file)
    event.listen(engine, "connect", note_file)
    event.listen(engine, "checkout", check_file)


def replace_broken_connections(engine: Engine, *, read_only: bool) -> None:
    """Open a new connection after the file failed: one that was opened read-only stays so.

    A read engine's own refusal of a write is no failure.
    """

    @event.listens_for(engine, "handle_error")
    def give_connection_up(context: ExceptionContext) -> None:
        name = sqlite_error_name(context.original_exception)
        is_refusal = read_only and name == "SQLITE_READONLY"
        if name.startswith(SQLITE_FILE_FAILURES) and not is_refusal:
            context.is_disconnect = True


def _identify(file: Path) -> Identity:
    try:
        found = os.stat(file)  # noqa: PTH116, at each checkout a third faster than by the path
    except OSError:
        return None
    return found.st_dev, found.st_ino
