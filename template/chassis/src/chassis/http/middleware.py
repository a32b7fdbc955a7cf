"""What surrounds every request, as one ASGI middleware: each part costs a microsecond or two."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..db.statements import current_stats
from ..observe.logs import log_access
from ..settings import ChassisSettings
from .deadlines import Deadlines
from .problems import problem_response
from .request import RequestContext

if TYPE_CHECKING:
    from ..observe.metrics import Metrics

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

# A header that the application sets itself is never replaced. `frame-ancestors` makes
# X-Frame-Options superfluous; every further header costs a microsecond or two.
SECURITY_HEADERS: Headers = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
CLOSE = {"Connection": "close"}
# The client or the server went away before there was an answer; the number is nginx's.
NO_ANSWER = 499
# How long the rest of a body is read after the answer.
LINGER_SECONDS = 15


class RequestMiddleware:
    """Checks, limits, names, times and counts each request, outside of everything else.

    Pure ASGI: one `BaseHTTPMiddleware` costs more than all of this, and breaks cancellation.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ChassisSettings,
        *,
        metrics: "Metrics | None" = None,
        trace: Callable[[], str | None] | None = None,
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._trace = trace
        self._log_access = settings.log_access
        self._max_body = settings.http_max_body_bytes
        seconds = settings.http_request_timeout_seconds
        self._deadlines = Deadlines(seconds) if seconds else None
        self._makes_id = settings.http_request_id
        self._trusts_id = settings.http_request_id_trusted
        self.id_header = settings.http_request_id_header
        self._id_header = self.id_header.lower().encode()
        self._any_host = "*" in settings.http_allowed_hosts
        self._allows = lru_cache(1024)(partial(_allows, settings.http_allowed_hosts))
        unchecked = {"/livez", "/readyz", settings.metrics_path}
        self._never_checked = unchecked | {settings.server_root_path + path for path in unchecked}
        self._headers = SECURITY_HEADERS if settings.http_security_headers else []
        self._secure_headers = self._headers + _transport_security(settings)
        self._names = {name for name, _ in self._secure_headers}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request; what is not HTTP is passed on."""
        if scope["type"] == "http":
            return self._serve(scope, receive, send)
        if scope["type"] == "websocket":
            scope["chassis"] = RequestContext(scope, self.id_header)
            headers = _first(scope)
            if _is_ambiguous(scope, headers) or not self._is_host_allowed(scope, headers):
                return send({"type": "websocket.close", "code": 1008})
        return self.app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" and scope["path"] in self._never_checked:
            # The server keeps the body to itself, by the scope that it has.
            scope = {**scope, "method": "GET"}
        headers = _first(scope)
        length = headers.get(b"content-length", b"0")
        has_body = length != b"0" or b"transfer-encoding" in headers
        exchange = Exchange(self, scope, receive, send, has_body=has_body)
        scope["chassis"] = exchange
        self._identify(exchange, headers)
        # Not reset: what is raised here is logged by the server, with the request's id.
        current_stats.set(exchange)
        if self._metrics is not None:
            self._metrics.in_flight += 1
        if self._deadlines is not None:
            self._deadlines.add(exchange)
        try:
            if _is_ambiguous(scope, headers):
                await exchange.refuse(400, "A request has one Host header.", CLOSE)
            elif not self._is_host_allowed(scope, headers):
                await exchange.refuse(400, "This host is not served here.")
            elif self._is_too_large(headers):
                await exchange.refuse(413, self._limit, CLOSE)
            else:
                await self.app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.is_late:
                await exchange.cut_off()
                raise
            await exchange.refuse_late()
        finally:
            exchange.finish()
            self._forget(exchange)
            # It refers to the scope: a circle, which only the garbage collector would end.
            del scope["chassis"]

    def _identify(self, exchange: "Exchange", headers: dict[bytes, bytes]) -> None:
        if self._makes_id:
            exchange.accept_id(headers.get(self._id_header) if self._trusts_id else None)
        if self._trace is not None:
            exchange.traceparent = self._trace()
        elif b"traceparent" in headers:
            exchange.accept_traceparent(headers[b"traceparent"])

    def _is_host_allowed(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        if self._any_host or self._allows(headers.get(b"host", b"")):
            return True
        return scope["path"] in self._never_checked

    def _is_too_large(self, headers: dict[bytes, bytes]) -> bool:
        length = headers.get(b"content-length")
        return length is not None and length.isdigit() and int(length) > self._max_body > 0

    def _forget(self, exchange: "Exchange") -> None:
        if self._metrics is not None:
            self._metrics.in_flight -= 1
        if self._deadlines is not None:
            self._deadlines.remove(exchange)
        if exchange.is_late and (task := asyncio.current_task()) is not None:
            task.uncancel()

    @property
    def _limit(self) -> str:
        return f"A body may have {self._max_body} bytes."

    def check_size(self, received: int) -> None:
        """Raise HTTPException when more of a body was received than is allowed."""
        if received > self._max_body > 0:
            raise HTTPException(413, self._limit, CLOSE)

    def begin(self, exchange: "Exchange", headers: Headers) -> Headers:
        """Complete the headers of an answer; once it has begun, it may take its time."""
        if self._deadlines is not None:
            self._deadlines.remove(exchange)
        added = self._secure_headers if exchange.scope["scheme"] == "https" else self._headers
        if not self._names.isdisjoint(given := {name for name, _ in headers}):
            added = [header for header in added if header[0] not in given]
        if exchange.request_id is not None:
            return [*headers, (self._id_header, exchange.request_id.encode()), *added]
        return [*headers, *added]

    def end(self, exchange: "Exchange") -> None:
        """Count and log a request that was answered."""
        if self._metrics is not None:
            self._metrics.observe(exchange)
        if self._log_access:
            log_access(exchange)


class Exchange(RequestContext):
    """One request and its answer, as they pass."""

    __slots__ = (
        "_is_finished",
        "_middleware",
        "_receive",
        "_received",
        "_send",
        "_waits_for_body",
        "is_complete",
    )

    def __init__(
        self,
        middleware: RequestMiddleware,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        has_body: bool,
    ) -> None:
        super().__init__(scope, middleware.id_header)
        self._middleware = middleware
        self._receive = receive
        self._send = send
        self._received = 0
        self.is_complete = not has_body
        self._is_finished = False
        self._waits_for_body = False

    async def receive(self) -> Message:
        """Pass a part of the body on, unless it is too large."""
        self._waits_for_body = not self.is_complete
        message = await self._receive()
        self._waits_for_body = False
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
            self._middleware.check_size(self._received)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a part of the answer on: its start completed, its end noted."""
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._middleware.begin(self, message.get("headers", []))
        elif kind == "http.response.body" and not message.get("more_body", False):
            if self.is_broken:  # Without an end, the server cuts the connection.
                return self._send({**message, "more_body": True})
            self.is_answered = True
            self.finish()
            if not self.is_complete and not self.is_late:
                return self._end_after_body(message)
        return self._send(message)

    async def _end_after_body(self, message: Message) -> None:
        """Send the end of an answer once the rest of the body is read, and discarded.

        A connection that is closed while its client still sends is reset, and many clients then
        never read the answer. One that waits for "100 Continue" sends nothing after an answer.
        """
        if b"expect" not in _first(self.scope):
            await self._send({**message, "more_body": True})
            message = {"type": "http.response.body"}
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while (await self._receive()).get("more_body", False):
                        pass
        await self._send(message)

    async def refuse(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """Answer with a problem, if nothing was answered so far."""
        if not self.status:
            response = problem_response(status, detail, headers=headers)
            await response(self.scope, self._receive, self.send)

    async def refuse_late(self) -> None:
        """Answer a request that took too long: to arrive, or to be served."""
        if self._waits_for_body:
            await self.refuse(408, "The body took too long to arrive.", CLOSE)
        else:
            await self.refuse(504, "The request took too long to serve.")

    async def cut_off(self) -> None:
        """Answer a request that was cancelled, as a server does which is told to stop."""
        self.is_reported = True
        if not self.status:
            logger.warning("%s: 503: cancelled before it was answered", self.name)
            detail = "The service stopped before the request was served; try again."
            await self.refuse(503, detail, CLOSE)
        elif not self.is_answered:
            logger.warning("%s: cancelled before its answer was complete", self.name)
        else:
            logger.warning("%s: cancelled in its background task", self.name)

    def finish(self) -> None:
        """Note that the answer is complete, or will never be."""
        if not self._is_finished:
            self._is_finished = True
            self.status = self.status or NO_ANSWER
            self._middleware.end(self)


def _transport_security(settings: ChassisSettings) -> Headers:
    age = settings.http_hsts_seconds
    return [(b"strict-transport-security", b"max-age=%d" % age)] if age else []


def _first(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers; of those sent twice the first, which is the one that Starlette sees."""
    return dict(reversed(scope["headers"]))


def _is_ambiguous(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Return whether two servers may see two hosts: RFC 9112 demands a 400."""
    if len(headers) != len(scope["headers"]):
        return [name for name, _ in scope["headers"]].count(b"host") > 1
    return b"host" not in headers and scope.get("http_version") == "1.1"


def _allows(hosts: tuple[str, ...], header: bytes) -> bool:
    host = header.decode("latin-1").lower()
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return any(
        name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:]))
        for allowed in hosts
    )
