"""The folder of a service's revisions, as Alembic reads it.

Alembic is imported on use: it costs 0.15 s and 8 MiB, and a server that only serves never needs it.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseSettingsError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory

    from ..address.settings import DatabaseSettings

# Alembic's `context` is one for the whole process.
_ONE_AT_A_TIME = Lock()


def alembic_config(package: str, settings: "DatabaseSettings") -> "Config":
    """Create Alembic's configuration for the migrations inside an installed package."""
    from alembic.config import Config

    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", f"{package}:migrations")
    config.set_main_option("path_separator", "os")
    config.set_main_option("recursive_version_locations", "true")
    return config


def read_scripts(config: "Config") -> "ScriptDirectory":
    """Return the folder of the revisions."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config)


def read_revisions(config: "Config") -> "list[Script]":
    """Return the revisions, the oldest first."""
    return list(read_scripts(config).walk_revisions())[::-1]


def find_head(config: "Config") -> str:
    """Return the revision that the code needs.

    Raise alembic.util.CommandError for none, which Alembic lets pass, and for several.
    """
    from alembic.util import CommandError

    heads = read_scripts(config).get_heads()
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


def refuse_other_folders(scripts: "ScriptDirectory") -> None:
    """Raise DatabaseSettingsError if `alembic.ini` names folders that only `alembic` would read."""
    own = (Path(scripts.dir) / "versions").resolve()
    if others := [name for name in scripts.version_locations if Path(name).resolve() != own]:
        raise DatabaseSettingsError(
            f"alembic.ini: version_locations names {', '.join(others)}, where migrate, /readyz and "
            "tests find no revision: keep them in migrations/versions, and where they are many in "
            "folders of it, with recursive_version_locations = true in place of version_locations"
        )


def run_environment(
    config: "Config", function: Callable[..., Any] | None = None, *, as_sql: bool = False
) -> None:
    """Run the service's `env.py`, and `function` in place of the revisions.

    `function` is called with the database's heads and Alembic's MigrationContext; `as_sql` opens
    no database and writes statements to the configuration's `output_buffer`.
    """
    from alembic.runtime.environment import EnvironmentContext

    scripts = read_scripts(config)
    with _ONE_AT_A_TIME, EnvironmentContext(config, scripts, fn=function, as_sql=as_sql):
        scripts.run_env()
