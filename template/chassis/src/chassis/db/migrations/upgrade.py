"""The commands that change a schema, on the migrations inside a service's package."""

import logging
from typing import TYPE_CHECKING

from .revisions import UnknownRevisionError
from .scripts import alembic_config, find_head

if TYPE_CHECKING:
    from ..address.settings import DatabaseSettings

logger = logging.getLogger(__name__)


def upgrade(package: str, settings: "DatabaseSettings", revision: str = "head") -> None:
    """Upgrade the database of a service's package to a revision.

    A database that is newer than the code is left alone, as a rollback needs it.
    Raise alembic.util.CommandError if there is not exactly one head, UnknownRevisionError if the
    database is another service's, DatabaseUnavailableError if a table stays in use.
    """
    from alembic import command

    config = alembic_config(package, settings)
    find_head(config)
    try:
        command.upgrade(config, revision)
    except UnknownRevisionError as error:
        if revision != "head" or error.state.age == "foreign":
            raise
        logger.warning("%s; nothing was migrated", error)


def downgrade(package: str, settings: "DatabaseSettings", revision: str) -> None:
    """Downgrade the database of a service's package to a revision, `base` for an empty one."""
    from alembic import command

    command.downgrade(alembic_config(package, settings), revision)
