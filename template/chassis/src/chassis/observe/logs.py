"""Where log lines go, and what they look like: JSON for machines, short text in a terminal."""

import json
import logging
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from time import perf_counter, time
from typing import Any, Literal, NamedTuple, Self, TextIO
from urllib.parse import unquote

from pydantic import SecretStr

from ..http.request import (
    NO_ROUTE,
    RequestRecord,
    current_ids,
    current_log_fields,
    current_request,
    request_id,
)
from ..settings import ChassisSettings
from .log_stream import LogStream, open_log_stream

access_logger = logging.getLogger("chassis.access")

# At DEBUG aiosqlite writes every statement with its values; at INFO the next two list their parts,
# and HTTP clients write the whole URL of each call, with the secrets in its query.
LIBRARY_LEVELS = {"aiosqlite": logging.INFO} | dict.fromkeys(
    ("alembic.runtime.plugins", "chassis.db.pool", "httpx", "httpx2"), logging.WARNING
)

# What `extra=` adds to a record is what a bare one does not have; uvicorn adds its message twice.
_BUILT_IN = {*vars(logging.makeLogRecord({})), "asctime", "color_message", "message"}
_SECRET = r"(?:password|passwd|secret|token|api[_-]?key|authorization|cookie)"
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
# Bounded: of what a client sent, a search that tries again at each letter takes seconds.
_ASSIGNMENT = rf"(?i)({_SECRET}[\w-]{{0,64}}['\"]?\s{{0,8}}[:=]\s{{0,8}})"
_REPLACEMENTS = (
    (re.compile(r"(://[^\s:/@]*:)\S{1,4096}@"), r"\1***@"),
    (re.compile(r"(?i)(\bcookie['\"]?: ?['\"]?)[^\n'\"]+"), r"\1***"),
    (re.compile(_ASSIGNMENT + r"(?:(['\"])(?:(?!\2).)+|(?:\w+ )?[^\s'\",;&)]+)"), r"\1\2***"),
    (re.compile(r"(?i)\b(bearer|basic) [\w.~+/=-]{8,}"), r"\1 ***"),
    # Here PostgreSQL and its driver quote values, which may have several lines.
    (
        re.compile(
            r"(?s)\b(DETAIL:|invalid input (?:for query argument \$\d+|syntax for type [\w ]+):)"
            r".*?(?=\n(?:HINT:|\[SQL:|\n)|\Z)"
        ),
        r"\1 ***",
    ),
)

# Control characters, and what else some programs take for the end of a line.
_CONTROL_CODES = (*range(32), *range(127, 160), 0x2028, 0x2029)
_LINE_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROL_CODES}
_WORD = re.compile(r"[\w.:/@+-]+")
_TRACEBACK_ESCAPES = {code: text for code, text in _LINE_ESCAPES.items() if chr(code) != "\n"}


class LogOptions(NamedTuple):
    """How to log; what is in `secrets` never appears in a line."""

    level: str = "INFO"
    format: Literal["auto", "json", "text"] = "auto"
    secrets: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: ChassisSettings) -> Self:
        """Return the options that a service's settings have, with their secrets."""
        return cls(settings.log_level, settings.log_format, tuple(_find_secrets(settings)))


def configure_logging(options: LogOptions) -> None:
    """Send log lines and warnings to standard error; a second call changes nothing.

    `auto` is text in a terminal, else JSON.
    """
    if not logging.root.handlers:
        logging.basicConfig(level=options.level, handlers=[_create_handler(options)])
    logging.captureWarnings(True)
    logging.getLogger("uvicorn.error").addFilter(_is_unreported)
    # uvicorn writes no access lines of its own if nobody listens.
    logging.getLogger("uvicorn.access").propagate = False
    for name, level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def _create_handler(options: LogOptions) -> logging.Handler:
    stream = open_log_stream()
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    text = options.format == "text" or (options.format == "auto" and is_terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter((TextFormatter if text else JSONFormatter)(options.secrets))
    return handler


def _is_unreported(record: logging.LogRecord) -> bool:
    """Return whether a record of the server tells more than what was logged of its request.

    Its lines about websockets are not wanted either: they hold the path with its query.
    """
    request = current_request()
    is_reported = request is not None and request.is_reported
    return not is_reported and "WebSocket %s" not in str(record.msg)


def _find_secrets(settings: ChassisSettings) -> list[str]:
    values = (getattr(settings, name) for name in type(settings).model_fields)
    texts = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    texts = [text for text in texts if not _is_shown(text, settings)]
    in_urls = [found[1] for text in texts if (found := re.search(r"://[^:/@]*:(.+)@", text))]
    known = {*texts, *in_urls, *map(unquote, in_urls)}
    # A plain word such as "postgres" would be hidden wherever it stands.
    return sorted((one for one in known if len(one) >= 8 and not one.isalpha()), key=len)


def _is_shown(text: str, settings: ChassisSettings) -> bool:
    """Return whether a URL is that of a database without its password, which lines name."""
    targets = (
        settings.database_target,
        settings.database_read_target,
        settings.database_migration_target,
    )
    return "://" in text and any(text in target.masked for target in targets)


def log_access(request: RequestRecord) -> None:
    """Write the line of a request that was answered."""
    if not access_logger.isEnabledFor(logging.INFO):
        return
    if (only := _find_only_stream()) is None:
        fields = _access_fields(request)
        access_logger.info("%s %d", request.name, request.status, extra=fields)
        return
    # A request does not fail with its log, as it would not by `logging` either.
    with suppress(OSError, ValueError):
        stream, formatter = only
        stream.write(_access_line(request, formatter))


def _find_only_stream() -> "tuple[TextIO | LogStream, JSONFormatter] | None":
    """Return where lines go as JSON, and what writes them so, if nobody else listens.

    A record on its way through `logging` takes as long as all the rest of an access line.
    """
    if len(logging.root.handlers) != 1:
        return None
    handler = logging.root.handlers[0]
    formatter = handler.formatter
    if type(handler) is not logging.StreamHandler or type(formatter) is not JSONFormatter:
        return None
    is_alone = not (access_logger.handlers or access_logger.filters or handler.filters)
    return (handler.stream, formatter) if is_alone else None


class _Formatter(logging.Formatter):
    """Hides secrets: what looks like one, and what is known to be one."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S")
        known = "|".join(re.escape(secret) for secret in reversed(secrets))
        self._patterns = [(re.compile(known), "***"), *_REPLACEMENTS] if known else _REPLACEMENTS
        # A caller, a tenant and the like are in line after line.
        self._scrub_short_text = lru_cache(1024)(self._scrub_text)

    def scrub(self, value: Any) -> Any:
        """Return a value for JSON without secrets, to its depths."""
        match value:
            case str():
                is_short = len(value) <= 64
                return self._scrub_short_text(value) if is_short else self._scrub_text(value)
            case dict():
                return {
                    name: "***" if _SECRET_NAME.search(name) else self.scrub(inner)
                    for name, inner in zip(map(str, value), value.values(), strict=True)
                }
            case list() | tuple() | set():
                return [self.scrub(inner) for inner in value]
            case float() if not isfinite(value):
                return str(value)
            case bool() | int() | float() | None:
                return value
            case _:
                return self.scrub(str(value))

    def _scrub_text(self, text: str) -> str:
        for pattern, replacement in self._patterns:
            text = pattern.sub(replacement, text)
        return text


class TextFormatter(_Formatter):
    """One line for people, and below it the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a line; what a client sent can't begin another one, or steer a terminal."""
        message = self.scrub(record.getMessage().rstrip("\n")).translate(_LINE_ESCAPES)
        line = f"{self.formatTime(record, self.datefmt)} {record.levelname} {message}"
        if record.name == access_logger.name:
            line += " in {duration_ms} ms ({statements} statements, {database_ms} ms)".format_map(
                vars(record)
            )
        if fields := current_log_fields():
            line += "".join(_write_pair(*pair) for pair in self.scrub(fields).items())
        if (found := request_id()) is not None:
            line += f" [{found}]"
        if record.exc_info:
            traceback = self.scrub(self.formatException(record.exc_info))
            line += f"\n{traceback.translate(_TRACEBACK_ESCAPES)}"
        return line


class JSONFormatter(_Formatter):
    """One object a line: what happened, in which request, and what `extra=` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a line."""
        added = {name: value for name, value in vars(record).items() if name not in _BUILT_IN}
        own = {
            "timestamp": _format_timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line = own | current_ids() | current_log_fields() | added | own
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(self.scrub(line))


def _write_pair(name: str, value: Any) -> str:
    """Return a field for people: text of one word as it is, all else as JSON."""
    is_word = isinstance(value, str) and _WORD.fullmatch(value)
    text = value if is_word else json.dumps(value, ensure_ascii=False)
    return f" {name}={text.translate(_LINE_ESCAPES)}"


def _access_line(request: RequestRecord, formatter: JSONFormatter) -> str:
    """Return the line that JSONFormatter would write, ten times as fast.

    Only the fields of the service's own may hold a secret.
    """
    now = time()
    line = (
        f'{{"timestamp":"{_format_timestamp(now)}","level":"INFO","logger":"{access_logger.name}",'
        f"{_route_fields(request.scope['method'], request.route, request.status)},"
        f'"duration_ms":{(perf_counter() - request.started) * 1000:.2f},'
        f'"database_ms":{request.seconds * 1000:.2f},"statements":{request.count}'
    )
    if request.request_id is not None:
        line += f',"request_id":"{request.request_id}"'
    if request.traceparent is not None:
        line += f',"trace_id":"{request.trace_id}"'
    if request.log_fields:
        line += f",{json.dumps(formatter.scrub(request.log_fields))[1:-1]}"
    return f"{line}}}\n"


@lru_cache(1024)
def _route_fields(method: str, route: str | None, status: int) -> str:
    message = f"{method} {route or NO_ROUTE} {status}"
    fields = {"message": message, "method": method, "route": route, "status": status}
    return json.dumps(fields, separators=(",", ":"))[1:-1]


def _access_fields(request: RequestRecord) -> dict[str, Any]:
    return {
        "method": request.scope["method"],
        "route": request.route,
        "status": request.status,
        "duration_ms": round((perf_counter() - request.started) * 1000, 2),
        "database_ms": round(request.seconds * 1000, 2),
        "statements": request.count,
    }


def _format_timestamp(seconds: float) -> str:
    return f"{_format_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(1)
def _format_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
