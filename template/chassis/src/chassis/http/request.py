"""The request that is being served: what its log lines, problems and outgoing calls share."""

import re
from random import Random
from time import perf_counter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.types import Scope

from ..db.statements import StatementStats, current_stats

# Stands for every path that leads nowhere: what was asked for may hold anything.
NO_ROUTE = "(no route)"

# Both go into headers and log lines as they are.
_ID = re.compile(rb"[\w.:+/=@~-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

# An id is no secret, and asking the system for random numbers takes five times as long.
_random_bits = Random().getrandbits


class RequestContext(StatementStats):
    """One request: its ids, what it asked of databases so far, and how it was answered.

    `scope["chassis"]`: the only key that the chassis puts there. It names the service's own
    application, which `scope["app"]` does not inside of a mounted one.
    """

    __slots__ = (
        "app",
        "id_header",
        "is_answered",
        "is_broken",
        "is_late",
        "is_reported",
        "request_id",
        "scope",
        "session",
        "started",
        "status",
        "traceparent",
    )

    def __init__(self, scope: Scope, id_header: str) -> None:
        self.count = 0
        self.seconds = 0.0
        self.scope = scope
        self.app: Starlette = scope["app"]
        self.session: AsyncSession | None = None
        self.id_header = id_header
        self.started = perf_counter()
        self.status = 0
        self.is_answered = False
        self.is_broken = False
        self.is_late = False
        self.is_reported = False
        self.request_id: str | None = None
        self.traceparent: str | None = None

    @property
    def route(self) -> str | None:
        """The template of the route that was found, such as `/items/{item_id}`."""
        scope = self.scope
        included = scope.get("fastapi", {}).get("effective_route_context")
        path: str | None = getattr(included or scope.get("route"), "path_format", None)
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
    def trace_id(self) -> str | None:
        """The trace that the request is part of."""
        return self.traceparent[3:35] if self.traceparent else None

    def accept_id(self, sent: bytes | None) -> None:
        """Take the id that was sent where it is well-formed, else make one."""
        if sent is not None and _ID.fullmatch(sent):
            self.request_id = sent.decode()
        else:
            self.request_id = f"{_random_bits(128):032x}"

    def accept_traceparent(self, sent: bytes) -> None:
        """Take the W3C trace context that was sent, where it is well-formed."""
        if _TRACEPARENT.fullmatch(sent):
            self.traceparent = sent.decode()


def current_request() -> RequestContext | None:
    """Return the request that is being served here, if any."""
    current = current_stats.get()
    return current if isinstance(current, RequestContext) else None


def outgoing_headers() -> dict[str, str]:
    """Return the headers that make a call to another service part of the request served here."""
    request = current_request()
    if request is None:
        return {}
    headers = {request.id_header: request.request_id, "traceparent": request.traceparent}
    return {name: value for name, value in headers.items() if value is not None}
