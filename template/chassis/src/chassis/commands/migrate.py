"""The command `migrate`: bring a service's schema up to date, or check its migrations."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from ..db.address.log_lines import log_database
from ..db.address.settings import DatabaseSettings
from ..db.address.urls import BackendName, parse_url

if TYPE_CHECKING:
    from ..db.migrations.authoring.scratch import StartServer

logger = logging.getLogger(__name__)


def migrate_service(package: str, settings: DatabaseSettings, *, wait: bool) -> None:
    """Upgrade the database to the head. Raises click.ClickException if it can't be."""
    from ..db.migrations.upgrade import upgrade

    _prepare_database(settings, wait=wait)
    with explain_command_errors():
        upgrade(package, settings)
    logger.info("the database's schema is up to date")


def print_sql(package: str, settings: DatabaseSettings, *, wait: bool) -> None:
    """Print the SQL that would run. Raises click.ClickException if a revision asks the database."""
    from ..db.migrations.authoring.sql import write_sql

    _prepare_database(settings, wait=wait)
    with explain_command_errors():
        click.echo(write_sql(package, settings))


def check_service(
    package: str,
    settings: DatabaseSettings,
    database: str | None,
    *,
    wait: bool,
    lint_after: str | None,
) -> None:
    """Check the migrations on scratch databases. Raises click.ClickException for what is wrong.

    `database` is what pytest's option takes. Without it both engines are judged, PostgreSQL on the
    configured server if that is one. New revisions are linted, unless SQLite alone is judged.
    """
    from ..db.migrations.authoring.check import check_migrations
    from ..db.migrations.linting.findings import lint_migrations

    lint = partial(lint_migrations, package, settings, lint_after)
    engine: BackendName | None = None
    start_server = None
    if database is not None:
        settings, engine = _choose_engine(settings, database)
    if database == "postgres" or settings.database_migration_target.backend != "postgres":
        start_server = _find_server_starter()
    if database not in ("sqlite", "postgres"):
        _prepare_database(settings, wait=wait)
    with explain_command_errors():
        check_migrations(
            package,
            settings,
            engine=engine,
            start_server=start_server,
            lint=tuple if engine == "sqlite" else lint,
        )
    logger.info("the migrations are in order")


@contextmanager
def explain_command_errors() -> Iterator[None]:
    """Raise click.ClickException for what Alembic and the revisions of a service refuse."""
    from alembic.util import CommandError

    from ..db.migrations.revisions import UnknownRevisionError, UnversionedDatabaseError

    try:
        yield
    except (CommandError, UnknownRevisionError, UnversionedDatabaseError) as error:
        raise click.ClickException(str(error)) from error


def _prepare_database(settings: DatabaseSettings, *, wait: bool) -> None:
    from ..db.migrations.connect import wait_for_database

    log_database(settings)
    if wait:
        wait_for_database(settings)


def _choose_engine(
    settings: DatabaseSettings, database: str
) -> tuple[DatabaseSettings, BackendName]:
    from ..db.migrations.authoring.scratch import check_choice

    check_choice(database)
    if database == "sqlite":
        return settings, "sqlite"
    if database != "postgres":
        settings = settings.with_migration_target(parse_url(database, "--database"))
    return settings, "postgres"


def _find_server_starter() -> "StartServer | None":
    """Return what starts the test kit's PostgreSQL, if it is installed."""
    from ..db.migrations.authoring.scratch import is_server_installed

    if not is_server_installed():
        return None
    from ..testing.databases import start_server

    return start_server
