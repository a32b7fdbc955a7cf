"""Where log lines go, and what they look like."""

import logging
import sys


def configure_logging(level: str) -> None:
    """Send lines of this level and above to standard error; a second call changes nothing."""
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    # At DEBUG the one writes every statement with its values; at INFO the other lists its parts.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
