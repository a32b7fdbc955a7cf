"""The revisions that the code knows, and what those of a database mean to it."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import chain
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, String, inspect, literal_column, select, table
from sqlalchemy.exc import DBAPIError

from ..errors import is_missing_table, sqlstate
from .options import MigrationEnvironment, TableName, read_environment, record_environment
from .revision_files import read_revision_files
from .scripts import alembic_config, read_scripts

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

    from ..address.settings import DatabaseSettings

OTHER_DATABASE_ADVICE = (
    "it is another service's: name another database (APP_DATABASE_URL), or, if both are to share "
    "it, a version table of your own (APP_ALEMBIC_VERSION_TABLE)"
)
_DUPLICATE_TABLE = "42P07"

Age = Literal["current", "behind", "newer", "foreign"]


@dataclass(frozen=True)
class SchemaState:
    """How a database's schema stands to the code.

    `newer` is a database after a rollback of the code, `foreign` one of another service: the code
    knows neither its revision nor any of its tables.
    """

    age: Age
    revisions: frozenset[str]

    @property
    def shown(self) -> str:
        """The revisions in words."""
        return ", ".join(sorted(self.revisions)) or "no revision"

    @property
    def explanation(self) -> str:
        """Why the code does not know the revisions."""
        unknown = f"the database is at revision {self.shown}, which this code does not have"
        if self.age == "foreign":
            return f"{unknown}, and none of its tables is there: {OTHER_DATABASE_ADVICE}"
        return (
            f"{unknown}: it is newer, as after a rollback, or of another branch, or the file of "
            "that revision was deleted. Downgrade with the code that has it; or, where the schema "
            "is that of a revision here, alembic stamp --purge REVISION"
        )

    @property
    def advice(self) -> str:
        """What to do before a revision is written or looked for, in words."""
        found = f"at {self.shown}, behind the code" if self.revisions else "empty"
        return f"the database is {found}: run alembic upgrade head, then this again"

    @property
    def reason(self) -> str | None:
        """Why requests can't be served, in words that name nothing; None if they can."""
        match self.age:
            case "behind":
                return "the database's schema is behind the code: run the migrations"
            case "foreign":
                return "the database is another service's: check which one is named"
            case "current" | "newer":
                return None


class UnknownRevisionError(Exception):
    """The database is at a revision that the code does not have."""

    def __init__(self, state: SchemaState) -> None:
        super().__init__(state.explanation)
        self.state = state


class UnversionedDatabaseError(Exception):
    """The database has tables of the code, and no revision."""

    _MESSAGE = (
        "the database has tables of the code and no revision, so that migrations can't make "
        "them: where its schema is that of a revision, say so by alembic stamp REVISION"
    )

    def __init__(self) -> None:
        super().__init__(self._MESSAGE)


class UnfinishedCopyError(UnversionedDatabaseError):
    """The database has a part of the rows of a SQLite file."""

    _MESSAGE = (
        "the database holds a copy of a SQLite file that is not finished: run copy-to-postgres "
        "again, which goes on with it; to give it up, drop the database"
    )


@dataclass(frozen=True)
class CodeRevisions:
    """The revisions of a service's code, and what its `env.py` asks for."""

    heads: frozenset[str]
    known: frozenset[str]
    environment: MigrationEnvironment

    def compare(self, connection: Connection) -> SchemaState:
        """Compare a database with the code; its tables are read only if its revision is unknown."""
        return self.judge(connection, self._read_revisions(connection))

    def judge(self, connection: Connection, revisions: Collection[str]) -> SchemaState:
        """Compare revisions of a database with the code's."""
        found = frozenset(revisions)
        if self.heads <= found:
            return SchemaState("current", found)
        if found <= self.known:
            return SchemaState("behind", found)
        tables = self.environment.tables
        is_foreign = bool(tables) and not has_any_table(connection, tables)
        return SchemaState("foreign" if is_foreign else "newer", found)

    def _read_revisions(self, connection: Connection) -> list[str]:
        environment = self.environment
        source = table(environment.version_table, schema=environment.version_table_schema)
        query = select(literal_column("version_num", String)).select_from(source)
        try:
            return list(connection.scalars(query))
        except DBAPIError as error:
            if is_missing_table(error):
                return []
            raise


def read_code_revisions(package: str, settings: "DatabaseSettings") -> CodeRevisions:
    """Read the revisions of a service's package, and the options of its `env.py`.

    Alembic is left out if that is possible: importing it takes a server 0.15 s and 8 MiB.
    """
    if found := _read_without_alembic(package, settings):
        return found
    config = alembic_config(package, settings)
    return code_revisions(read_scripts(config), read_environment(config))


def _read_without_alembic(package: str, settings: "DatabaseSettings") -> CodeRevisions | None:
    """Return None if the files are not as Alembic writes them, or anything in them fails."""
    try:
        folder = Path(str(files(package))) / "migrations"
        parents = read_revision_files(folder / "versions")
        environment = record_environment(settings, partial(run_path, str(folder / "env.py")))
    except Exception:
        return None
    if environment is None:
        return None
    heads = parents.keys() - set(chain.from_iterable(parents.values()))
    return CodeRevisions(frozenset(heads), frozenset(parents), environment)


def code_revisions(scripts: "ScriptDirectory", environment: MigrationEnvironment) -> CodeRevisions:
    """Return what Alembic reads of a folder of revisions, with the options of its `env.py`."""
    known = (script.revision for script in scripts.walk_revisions())
    return CodeRevisions(frozenset(scripts.get_heads()), frozenset(known), environment)


def has_any_table(connection: Connection, tables: Collection[TableName]) -> bool:
    """Return whether one of the tables is in a database."""
    inspector = inspect(connection)
    schemas = {schema for schema, _ in tables}
    found = {(schema, name) for schema in schemas for name in inspector.get_table_names(schema)}
    return not found.isdisjoint(tables)


def is_unversioned(connection: Connection, tables: Collection[TableName]) -> bool:
    """Return whether a database without a revision has tables of the code.

    Raise UnfinishedCopyError if they are being copied: nothing may take them for the whole.
    """
    if not has_any_table(connection, tables):
        return False
    from ..copying.ledger import NAME

    if inspect(connection).has_table(NAME):
        raise UnfinishedCopyError
    return True


def is_outdated(error: Exception) -> bool:
    """Return whether Alembic writes or looks for no revision, as the database is behind."""
    return str(error).startswith("Target database is not up to date")


def is_existing_table(error: DBAPIError) -> bool:
    """Return whether a table was to be made that is there."""
    return sqlstate(error) == _DUPLICATE_TABLE or "already exists" in str(error.orig)
