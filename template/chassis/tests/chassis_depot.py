"""A package with migrations, written for one test."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from sqlalchemy import MetaData

from chassis.db import DatabaseSettings
from chassis.db.migrations.scripts import alembic_config

if TYPE_CHECKING:
    from alembic.config import Config

ENVIRONMENT = '''
"""Tell Alembic which tables and which database these are."""

from alembic import context
from alembic import command
from sqlalchemy import MetaData

from chassis.db import DatabaseSettings, run_migrations

run_migrations(context.config.attributes.get("metadata", MetaData()), DatabaseSettings)
'''
OWN_ENVIRONMENT = '''
"""Tell Alembic which tables and which database these are."""

import sqlalchemy as sa
from chassis.db import DatabaseSettings, run_migrations

{models}
run_migrations(metadata, DatabaseSettings, {options})
'''
REVISION = '''
"""{name}"""

import sqlalchemy as sa
from alembic import op

revision = {name!r}
down_revision = {after!r}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''
TEMPLATE = '''"""${message}"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
'''
_numbers = count()


class Depot:
    """The package, and what its revisions are added with."""

    def __init__(self, folder: Path) -> None:
        self.package = folder.name
        self._folder = folder / "migrations"
        self.versions = self._folder / "versions"
        self.versions.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "migrations" / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
        (folder / "migrations" / "script.py.mako").write_text(TEMPLATE, encoding="utf-8")
        self._head: str | None = None

    def configure(self, *models: str, options: str = "") -> None:
        """Write an env.py with models and options of its own."""
        lines = "\n".join(["metadata = sa.MetaData()", *models])
        script = OWN_ENVIRONMENT.format(models=lines, options=options)
        (self._folder / "env.py").write_text(script, encoding="utf-8")
        # Bytecode is matched to its source by second and size, which may be the same.
        shutil.rmtree(self._folder / "__pycache__", ignore_errors=True)

    def generate(self, settings: DatabaseSettings, message: str = "generated") -> str:
        """Make a revision of the models in env.py; return its text."""
        made = command.revision(alembic_config(self.package, settings), message, autogenerate=True)
        assert made is not None
        assert not isinstance(made, list)
        self._head = made.revision
        return Path(made.path).read_text(encoding="utf-8")

    def add(self, name: str, upgrade: str, downgrade: str = "pass") -> None:
        """Add a revision after the one that was added last."""
        script = REVISION.format(name=name, after=self._head, upgrade=upgrade, downgrade=downgrade)
        (self.versions / f"{name}.py").write_text(script, encoding="utf-8")
        self._head = name

    def branch_from(self, name: str | None) -> None:
        """Let the next revision come after this one, or be the first."""
        self._head = name

    def forget(self, name: str) -> None:
        """Remove a revision, as the code of an older release does not have it."""
        (self.versions / f"{name}.py").unlink()

    def config(self, settings: DatabaseSettings, metadata: MetaData | list[MetaData]) -> "Config":
        """Give Alembic's configuration with the tables that the models have."""
        config = alembic_config(self.package, settings)
        config.attributes["metadata"] = metadata
        return config


@contextmanager
def written(folder: Path) -> Iterator[Depot]:
    """Write a package of a name of its own, and have it found while it is needed."""
    depot = Depot(folder / f"depot_{next(_numbers)}")
    sys.path.insert(0, str(folder))
    try:
        yield depot
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == depot.package]:
            del sys.modules[name]
