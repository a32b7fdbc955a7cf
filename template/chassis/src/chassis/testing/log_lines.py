"""What the service writes to its log, as fields."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..observe.logs import LIBRARY_LEVELS, JSONFormatter, LogOptions

LogLines = list[dict[str, Any]]


class LogLineHandler(logging.Handler):
    """Keeps each line that a service would write."""

    def __init__(self, options: LogOptions) -> None:
        super().__init__()
        self.setFormatter(JSONFormatter(options.secrets))
        self.lines: LogLines = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, unless a service has the level of its logger higher."""
        if record.levelno >= LIBRARY_LEVELS.get(record.name, logging.NOTSET):
            self.lines.append(json.loads(self.format(record)))


@contextmanager
def keep_log_lines(options: LogOptions) -> Iterator[LogLines]:
    """Yield the lines that are written meanwhile, at the level of the service."""
    handler, level = LogLineHandler(options), logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(options.level)
    try:
        yield handler.lines
    finally:
        logging.root.removeHandler(handler)
        logging.root.setLevel(level)
