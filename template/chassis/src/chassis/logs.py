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
    # At DEBUG it writes every statement with its values.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
