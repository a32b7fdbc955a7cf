"""The request that is being served: what its log lines, problems and outgoing calls share."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from threading import Lock
from time import perf_counter
from typing import Any

from starlette.types import Scope

from ..db.borrowed import find_route_template
from ..db.request_sessions import SessionOwner
from ..db.statements import current_stats
from .routes import find_route

# Stands for every path that leads nowhere: what was asked for may hold anything.
NO_ROUTE = "(no route)"

# What log lines have by themselves, access lines among them.
LINE_FIELDS = {
    *("timestamp", "level", "logger", "message", "exception", "request_id", "trace_id"),
    *("method", "route", "status", "duration_ms", "database_ms", "statements"),
}
_FIELD_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)
_NO_FIELDS: dict[str, Any] = {}
# Of a task that serves no request.
_task_fields = ContextVar("chassis_log_fields", default=_NO_FIELDS)
# The `outgoing_headers` of an earlier request, in the block that does the rest of it.
_kept_headers: ContextVar[Mapping[str, str] | None] = ContextVar("chassis_headers", default=None)
# Two threads of a request may add fields at once; neither loses them.
_adding_lock = Lock()

# Both go into headers and log lines as they are.
_ID = re.compile(rb"[\w.:+/=@~-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

# An id is no secret, and asking the system for random numbers takes five times as long.
_random_bits = Random().getrandbits


class RequestRecord(SessionOwner):
    """One request: its ids, its use of the database, and how far its answer is.

    `scope["chassis"]`: the only key that the chassis puts there. It names the service's own
    application, which `scope["app"]` does not inside of a mounted one.
    """

    __slots__ = (
        "_read_trace",
        "_traceparent",
        "awaits_body",
        "caller",
        "has_whole_body",
        "id_header",
        "is_answered",
        "is_broken",
        "is_finished",
        "is_late",
        "is_reported",
        "log_fields",
        "max_body_bytes",
        "received_bytes",
        "request_id",
        "started",
        "status",
    )

    def __init__(
        self, scope: Scope, id_header: str, read_trace: Callable[[], str | None] | None = None
    ) -> None:
        super().__init__(scope)
        self.id_header = id_header
        self.request_id: str | None = None
        self._read_trace = read_trace
        self._traceparent: str | None = None
        self.started = perf_counter()
        # Those of add_log_fields: adding some replaces the mapping, and never changes it.
        self.log_fields = _NO_FIELDS
        # Who sends it, once `chassis.auth` has found that out.
        self.caller: object = None
        # Of the body that is received, and what it may have, once it is large.
        self.received_bytes = 0
        self.max_body_bytes: float | None = None
        self.has_whole_body = True
        self.awaits_body = False
        # Of the answer: the status once it has begun, then whether all of it was passed on, or
        # can't be, and whether metrics and the access log know.
        self.status = 0
        self.is_answered = False
        self.is_broken = False
        self.is_finished = False
        # What went wrong: it took too long; its error was logged.
        self.is_late = False
        self.is_reported = False

    @property
    def route(self) -> str | None:
        """The template of the route that was found, such as `/items/{item_id}`."""
        scope = self.scope
        # It is empty for a websocket.
        path = find_route_template(scope) or None
        is_early = self.status in (413, 503) or getattr(scope["app"], "user_middleware", False)
        if path is None and (is_early or scope["type"] == "websocket"):
            # It was answered before it was routed: for its length, the load, or by a middleware.
            found = find_route(self.app, scope)
            return None if found is None else found.template
        if scope["app"] is self.app or path is None:
            return path
        return f"{getattr(scope['app'].state, 'mounted_at', '')}{path}"

    @property
    def settings(self) -> Any:
        """The settings that the service was made with."""
        return self.app.state.settings

    @property
    def name(self) -> str:
        """The method and the template of the route, for log lines; never what was asked for."""
        return f"{self.scope.get('method', 'WEBSOCKET')} {self.route or NO_ROUTE}"

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context: the one that was sent, or of the span that FastAPI began since."""
        if self._traceparent is None and self._read_trace is not None:
            self._traceparent = self._read_trace()
        return self._traceparent

    @property
    def trace_id(self) -> str | None:
        """The trace that the request is part of."""
        return self.traceparent[3:35] if self.traceparent else None

    def accept_id(self, sent: bytes | None) -> None:
        """Take the id that was sent if it is well-formed, else make one."""
        if sent is not None and _ID.fullmatch(sent):
            self.request_id = sent.decode()
        else:
            self.request_id = f"{_random_bits(128):032x}"

    def accept_traceparent(self, sent: bytes) -> None:
        """Take the W3C trace context that was sent, if it is well-formed."""
        if _TRACEPARENT.fullmatch(sent):
            self._traceparent = sent.decode()


def current_request() -> RequestRecord | None:
    """Return the request that is being served here, if any."""
    current = current_stats.get()
    return current if isinstance(current, RequestRecord) else None


def request_id() -> str | None:
    """Return the id of the request that is served here, as its log lines have it, if any is."""
    return current_ids().get("request_id")


def current_ids() -> dict[str, str]:
    """Return the ids of request and trace that log lines have here."""
    if (headers := _kept_headers.get()) is not None:
        kept = dict(headers)
        trace = kept.pop("traceparent", "")[3:35]
        ids = {"request_id": next(iter(kept.values()), None), "trace_id": trace}
    elif (request := current_request()) is not None:
        ids = {"request_id": request.request_id, "trace_id": request.trace_id}
    else:
        return {}
    return {name: value for name, value in ids.items() if value}


@contextmanager
def request_context(headers: Mapping[str, str]) -> Iterator[None]:
    """Do work that a request left for later, as a part of it: in a task, a worker, a script.

    `headers` is what `outgoing_headers()` returned in the request. Log lines, `request_id` and
    `outgoing_headers` follow in the block. Raise ValueError for a value that is no id.
    """
    for name, value in headers.items():
        pattern = _TRACEPARENT if name == "traceparent" else _ID
        if not pattern.fullmatch(value.encode()):
            raise ValueError(f"request_context: {name} is not what outgoing_headers() returned")
    token = _kept_headers.set(dict(headers))
    try:
        yield
    finally:
        _kept_headers.reset(token)


def outgoing_headers() -> dict[str, str]:
    """Return the headers that make a call to another service part of the request served here."""
    if (kept := _kept_headers.get()) is not None:
        return dict(kept)
    request = current_request()
    if request is None:
        return {}
    headers = {request.id_header: request.request_id, "traceparent": request.traceparent}
    return {name: value for name, value in headers.items() if value is not None}


def add_log_fields(**fields: Any) -> None:
    """Add fields to every line that is logged from here on in this request, its access line too.

    Outside of requests, to the lines of this task and of those that it begins after. Values are
    taken as they are now, as JSON or else as text. Raise ValueError for a name that lines have.
    """
    for name in fields:
        if name in LINE_FIELDS:
            raise ValueError(f"add_log_fields: {name} is in each line already: name it otherwise")
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"add_log_fields: {name!r} must be letters, digits, _, . and -")
    added = {name: _copy_as_json(value) for name, value in fields.items()}
    request = current_request()
    with _adding_lock:
        if request is None:
            _task_fields.set(_task_fields.get() | added)
        else:
            request.log_fields = request.log_fields | added


def current_log_fields() -> dict[str, Any]:
    """Return the fields of the request that is being served here, or of this task."""
    request = current_request()
    return _task_fields.get() if request is None else request.log_fields


def _copy_as_json(value: Any) -> Any:
    match value:
        case None | bool() | str() | float():
            return value
        case int() if abs(value) < 2**64:
            return value
        case dict():
            return {str(name): _copy_as_json(inner) for name, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_copy_as_json(inner) for inner in value]
        case _:
            return str(value)
