"""The lines of the log that say which database is used."""

import logging

from .settings import DatabaseSettings

logger = logging.getLogger(__name__)


def log_database(settings: DatabaseSettings) -> None:
    """Log which database the settings name, and what is doubtful about them."""
    logger.info(settings.describe_database())
    for warning in settings.database_warnings:
        logger.warning(warning)
