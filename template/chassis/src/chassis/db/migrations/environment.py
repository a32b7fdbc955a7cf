"""The Alembic environment: what a service's `env.py` calls.

Alembic is imported on use: it costs 0.15 s and 8 MiB, and a server that only serves never needs it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from sqlalchemy import MetaData

from .options import RECORDER, MigrationOptions, create_environment

if TYPE_CHECKING:
    from ..address.settings import DatabaseSettings


def run_migrations(
    metadata: MetaData | Sequence[MetaData],
    settings: "DatabaseSettings | type[DatabaseSettings]",
    **options: Unpack[MigrationOptions],
) -> None:
    """Run what Alembic was asked for; a service's `env.py` calls this and nothing else.

    Pass the class of the settings: then `alembic` can say in one line what is wrong with them.
    `options` are those of Alembic's `context.configure` that `MigrationOptions` names.
    Raise DatabaseSettingsError for another option, DatabaseUnavailableError if another runner
    holds the lock for too long.
    """
    if (recorder := RECORDER.get()) is not None:
        recorder.environment = create_environment(metadata, recorder.settings, options)
        return
    from alembic import context

    from .console import end_in_one_line
    from .runner import run_command
    from .scripts import refuse_other_folders

    with end_in_one_line(context.config):
        refuse_other_folders(context.script)
        given = context.config.attributes.get("settings", settings)
        read = given() if isinstance(given, type) else given
        run_command(context, read, create_environment(metadata, read, options))
