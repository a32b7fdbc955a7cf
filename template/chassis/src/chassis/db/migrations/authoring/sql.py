"""The SQL that an upgrade of the configured database would run."""

from io import StringIO
from pathlib import Path

from alembic import command
from alembic.util import CommandError

from ...address.settings import DatabaseSettings
from ..connect import open_connection
from ..options import read_environment
from ..revisions import UnknownRevisionError, code_revisions
from ..scripts import alembic_config, find_head, read_scripts
from .failures import describe_failure


def write_sql(package: str, settings: DatabaseSettings) -> str:
    """Return the statements from the database's revision to the head, in its own SQL.

    Raise alembic.util.CommandError for a revision that asks the database, and on SQLite for a
    rebuild of a table, which reads it. Raise UnknownRevisionError if the code lacks its revision.
    """
    config = alembic_config(package, settings)
    config.output_buffer = StringIO()
    head, current = find_head(config), _read_revision(package, settings)
    if current == head:
        return f"-- nothing to do: the database is at {head}"
    try:
        command.upgrade(config, f"{current}:{head}" if current else head, sql=True)
    except Exception as error:
        reason = describe_failure(error, config)
        raise CommandError(f"there is no SQL for what asks the database{reason}") from error
    return config.output_buffer.getvalue().strip()


def _read_revision(package: str, settings: DatabaseSettings) -> str | None:
    target = settings.database_migration_target
    if target.backend == "sqlite" and not Path(target.url.database or "").exists():
        return None
    config = alembic_config(package, settings)
    code = code_revisions(read_scripts(config), read_environment(config))
    with open_connection(settings) as connection:
        state = code.compare(connection)
    if not state.revisions <= code.known:
        raise UnknownRevisionError(state)
    if len(state.revisions) > 1:
        raise CommandError(f"the database is at {state.shown}: migrate --sql starts from one")
    return next(iter(state.revisions), None)
