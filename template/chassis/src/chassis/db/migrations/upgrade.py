"""The commands that change a schema, on the migrations inside a service's package."""

import logging
from typing import TYPE_CHECKING

from ..address.settings import DatabaseSettings
from .revisions import UnknownRevisionError

if TYPE_CHECKING:
    from alembic.config import Config

logger = logging.getLogger(__name__)


def upgrade(package: str, settings: DatabaseSettings, revision: str = "head") -> None:
    """Upgrade the database of a service's package to a revision.

    A database that is newer than the code is left alone, as a rollback needs it.
    Raises alembic.util.CommandError if there is not exactly one head, UnknownRevisionError if the
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


def downgrade(package: str, settings: DatabaseSettings, revision: str) -> None:
    """Downgrade the database of a service's package to a revision, `base` for an empty one."""
    from alembic import command

    command.downgrade(alembic_config(package, settings), revision)


def alembic_config(package: str, settings: DatabaseSettings) -> "Config":
    """Build Alembic's configuration for the migrations inside an installed package."""
    from alembic.config import Config

    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", f"{package}:migrations")
    config.set_main_option("path_separator", "os")
    return config


def find_head(config: "Config") -> str:
    """Return the revision that the code needs.

    Raises alembic.util.CommandError for none, which Alembic lets pass, and for several.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    heads = ScriptDirectory.from_config(config).get_heads()
    if len(heads) > 1:
        raise CommandError(
            f"the migrations have {len(heads)} heads, {', '.join(sorted(heads))}: join them with "
            "alembic merge heads -m merge, or delete a revision that `copier recopy` brought back"
        )
    if not heads:
        raise CommandError(
            "there is no revision in migrations/versions: make the first with alembic revision "
            "--autogenerate; where there is one, the package was installed without it"
        )
    return heads[0]
