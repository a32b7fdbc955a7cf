"""The options of `run_migrations`: what a service may pass to Alembic, completed by the chassis.

`migrations/env.py` is their one home. Whoever needs them without a migration (readiness, `doctor`,
`migrate --check`) runs it in a mode that only records them: see `read_environment`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypedDict

from sqlalchemy import MetaData

from ..conflicts import check_conflicts_of_columns
from ..errors import DatabaseSettingsError
from .scripts import run_environment

if TYPE_CHECKING:
    from alembic.config import Config

    from ..address.settings import DatabaseSettings
    from .authoring.autogenerate import Autogenerate

DEFAULT_VERSION_TABLE = "alembic_version"

TableName = tuple[str | None, str]


class MigrationOptions(TypedDict, total=False):
    """What `run_migrations` passes to Alembic's `context.configure`."""

    autogenerate_plugins: Sequence[str]
    compare_server_default: bool | Callable[..., bool | None]
    compare_type: bool | Callable[..., bool | None]
    include_name: Callable[..., bool]
    include_object: Callable[..., bool]
    include_schemas: bool
    on_version_apply: Callable[..., None] | Collection[Callable[..., None]]
    process_revision_directives: Callable[..., None]
    render_item: Callable[..., Any]
    transaction_per_migration: bool
    user_module_prefix: str | None
    version_table: str
    version_table_pk: bool
    version_table_schema: str | None


@dataclass(frozen=True)
class MigrationEnvironment:
    """What a service's `env.py` asked for: the tables of its models, and Alembic's options."""

    metadata: tuple[MetaData, ...]
    options: Mapping[str, Any]

    @property
    def version_table(self) -> str:
        """The name of the table that holds the database's revision."""
        return str(self.options["version_table"])

    @property
    def version_table_schema(self) -> str | None:
        """The schema of that table; None for the default one."""
        schema: str | None = self.options["version_table_schema"]
        return schema

    @property
    def version_callbacks(self) -> tuple[Callable[..., None], ...]:
        """What the service has called after each revision."""
        given = self.options.get("on_version_apply", ())
        return (given,) if callable(given) else tuple(given)

    @property
    def tables(self) -> frozenset[TableName]:
        """The schema and name of each table of the models."""
        found = [table for one in self.metadata for table in one.tables.values()]
        return frozenset((table.schema, table.name) for table in found)


def create_environment(
    metadata: MetaData | Sequence[MetaData], settings: "DatabaseSettings", given: Mapping[str, Any]
) -> MigrationEnvironment:
    """Check the options of a service and complete them.

    Raise DatabaseSettingsError for an option that is not the service's to set, for two names of
    the version table, and for a schema on SQLite; InvalidRequestError for a conflict() that is not
    at a unique column.
    """
    _refuse_unknown_options(given)
    tables = (metadata,) if isinstance(metadata, MetaData) else tuple(metadata)
    for table in (table for one in tables for table in one.tables.values()):
        check_conflicts_of_columns(table)
    hooks = _AutogenerateHooks(tables, given)
    compare_defaults = given.get("compare_server_default", True)
    options = {
        **given,
        # The chassis compares defaults itself, unless the service has a function for it.
        "compare_server_default": compare_defaults if callable(compare_defaults) else False,
        "target_metadata": metadata,
        # A revision is for both engines, whichever it was made on.
        "render_as_batch": True,
        "render_item": hooks.render_item,
        "compare_type": given.get("compare_type", hooks.compare_type),
        "process_revision_directives": hooks.process_directives,
        "transaction_per_migration": given.get("transaction_per_migration", False),
        "version_table": _resolve_name("version_table", settings, given) or DEFAULT_VERSION_TABLE,
        "version_table_schema": _resolve_name("version_table_schema", settings, given),
    }
    schemas = _find_schemas(tables)
    if settings.database_migration_target.backend == "sqlite":
        _refuse_schemas(schemas | {options["version_table_schema"]} - {None})
        # One transaction for all revisions: BEGIN IMMEDIATE is the lock between two runners.
        options |= {"transactional_ddl": True, "transaction_per_migration": False}
    elif schemas:
        options = {"include_schemas": True, "include_name": _include_only(schemas), **options}
    return MigrationEnvironment(tables, options)


@dataclass
class Recorder:
    """What `run_migrations` is asked to note, instead of running anything."""

    settings: "DatabaseSettings"
    environment: MigrationEnvironment | None = None


RECORDER: ContextVar[Recorder | None] = ContextVar("chassis_recorder", default=None)


def read_environment(config: "Config") -> MigrationEnvironment:
    """Return what `env.py` passes to `run_migrations`; no database is opened.

    Raise DatabaseSettingsError if it does not call `run_migrations`.
    """
    settings = config.attributes["settings"]
    environment = record_environment(settings, partial(run_environment, config))
    if environment is None:
        raise DatabaseSettingsError(
            "migrations/env.py does not call run_migrations of chassis.db: call it with the "
            "metadata of the models and the settings"
        )
    return environment


def record_environment(
    settings: "DatabaseSettings", run_env: Callable[[], object]
) -> MigrationEnvironment | None:
    """Run an `env.py`. Return what it passes to `run_migrations`, None if it does not call it."""
    recorder = Recorder(settings)
    token = RECORDER.set(recorder)
    try:
        run_env()
    finally:
        RECORDER.reset(token)
    return recorder.environment


class _AutogenerateHooks:
    """Alembic's hooks, for which nothing is imported until a revision is written or compared."""

    def __init__(self, metadata: Sequence[MetaData], given: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self._given = given

    @cached_property
    def _autogenerate(self) -> "Autogenerate":
        from .authoring.autogenerate import Autogenerate

        return Autogenerate(self._metadata, self._given)

    def compare_type(self, *arguments: Any) -> bool | None:
        return self._autogenerate.compare_type(*arguments)

    def render_item(self, kind: str, item: Any, context: Any) -> Any:
        return self._autogenerate.render_item(kind, item, context)

    def process_directives(self, context: Any, revision: Any, directives: list[Any]) -> None:
        self._autogenerate.process_directives(context, revision, directives)


def _find_schemas(metadata: Sequence[MetaData]) -> frozenset[str]:
    """Return the schemas of the tables, without the default one."""
    tables = [table for one in metadata for table in one.tables.values()]
    return frozenset(table.schema for table in tables if table.schema)


_REFUSED_OPTIONS = {
    "connection": "the database is the one of the settings",
    "url": "the database is the one of the settings",
    "dialect_name": "the database is the one of the settings",
    "target_metadata": "the metadata is the first argument, several of them as a list",
    "render_as_batch": "it is always on",
    "transactional_ddl": "it is on for SQLite, and as Alembic has it for others",
}


def _refuse_unknown_options(given: Mapping[str, Any]) -> None:
    known = sorted(MigrationOptions.__annotations__)
    for name in given:
        if name not in known:
            advice = _REFUSED_OPTIONS.get(name, f"it takes {', '.join(known)}")
            raise DatabaseSettingsError(
                f"migrations/env.py: run_migrations does not take {name}: {advice}"
            )


def _refuse_schemas(schemas: Collection[str]) -> None:
    if schemas:
        named = ", ".join(sorted(schemas))
        raise DatabaseSettingsError(
            f"APP_DATABASE_URL: SQLite has no schemas, and the models or the version table are in "
            f"{named}; name a PostgreSQL database, or leave the schema out of them"
        )


def _resolve_name(name: str, settings: "DatabaseSettings", given: Mapping[str, Any]) -> str | None:
    in_code: str | None = given.get(name)
    in_settings: str | None = getattr(settings, f"alembic_{name}")
    if in_code and in_settings and in_code != in_settings:
        raise DatabaseSettingsError(
            f"APP_ALEMBIC_{name.upper()}: {in_settings}, where run_migrations in migrations/env.py "
            f"has {in_code}; keep one of them"
        )
    return in_code or in_settings


def _include_only(schemas: Collection[str]) -> Callable[..., bool]:
    """Return a filter that leaves out the schemas of others, which no model is in."""

    def include_name(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
        return kind != "schema" or name is None or name in schemas

    return include_name
