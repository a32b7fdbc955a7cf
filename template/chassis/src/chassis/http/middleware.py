"""What surrounds every request, as one ASGI middleware: each part costs a microsecond or two."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from math import inf
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..db.statements import current_stats
from ..observe.logs import log_access
from ..settings import ChassisSettings
from .deadlines import Deadlines
from .headers import SECURITY_HEADERS, has_ambiguous_host, is_host_allowed, read_headers
from .limits import RouteLimits
from .request import RequestRecord
from .responses import BUG, CLOSE, answer_cancelled, answer_database_error, problem_response
from .routes import probe_paths

if TYPE_CHECKING:
    from ..observe.metrics import Metrics

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
        limits: RouteLimits,
        metrics: "Metrics | None",
        trace: Callable[[], str | None] | None,
        allow_origins: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        self.app = allow_origins(app)
        self._allow_origins = allow_origins
        self._metrics = metrics
        self._trace = trace
        self._log_access = settings.log_access
        self._limits = limits
        self._makes_id = settings.http_request_id
        self._trusts_id = settings.http_request_id_trusted
        self.id_header = settings.http_request_id_header
        self._id_header = self.id_header.lower().encode()
        self._any_host = "*" in settings.http_allowed_hosts
        self._allows_host = lru_cache(1024)(partial(is_host_allowed, settings.http_allowed_hosts))
        self._never_checked = probe_paths(settings.metrics_path, settings.server_root_path)
        self._headers = SECURITY_HEADERS if settings.http_security_headers else []
        self._secure_headers = [*self._headers]
        if settings.http_hsts_seconds:
            age = b"max-age=%d" % settings.http_hsts_seconds
            self._secure_headers.append((b"strict-transport-security", age))
        self._names = {name for name, _ in self._secure_headers}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request; what is neither HTTP nor a websocket is passed on."""
        if scope["type"] == "http":
            return self._serve_request(scope, receive, send)
        if scope["type"] == "websocket":
            return self._serve_websocket(scope, receive, send)
        return self.app(scope, receive, send)

    # These two are read at the first request, when all routes are there.
    @cached_property
    def _max_body(self) -> float:
        return self._limits.smallest.max_body_bytes

    @cached_property
    def _deadlines(self) -> Deadlines | None:
        return Deadlines(self._limits) if self._limits.smallest.timeout_seconds < inf else None

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" and scope["path"] in self._never_checked:
            # The server keeps the body to itself, by the scope that it has.
            scope = {**scope, "method": "GET"}
        headers = read_headers(scope)
        record = self._begin_record(scope, headers)
        answer = partial(self._send_answer, record, receive, send)
        try:
            refusal = self._check_headers(record, headers)
            if refusal is None:
                await self.app(scope, partial(self._receive_body, record, receive), answer)
            else:
                await self._allow_origins(refusal)(scope, receive, answer)
        except asyncio.CancelledError:
            await answer_cancelled(record, receive, answer, self._allow_origins)
        except Exception as error:
            if record.status:
                raise
            # Its session could not be ended.
            refused = answer_database_error(record, error.__cause__ or error)
            response = refused or problem_response(500, BUG)
            await self._allow_origins(response)(scope, receive, answer)
            if refused is None:
                raise
        finally:
            await self._end_record(record)
        # It refers to the scope: a circle, which only the garbage collector would end.
        del scope["chassis"]

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = scope["chassis"] = RequestRecord(scope, self.id_header)
        headers = read_headers(scope)
        if self._makes_id:
            record.accept_id(headers.get(self._id_header) if self._trusts_id else None)
        current_stats.set(record)
        if has_ambiguous_host(scope, headers) or not self._is_host_allowed(scope, headers):
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            await self.app(scope, receive, _close_for_answers(send))
        finally:
            await record.close_scopes()
        del scope["chassis"]

    def _begin_record(self, scope: Scope, headers: dict[bytes, bytes]) -> RequestRecord:
        record = scope["chassis"] = RequestRecord(scope, self.id_header, self._trace)
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            record.has_whole_body = False
        if self._makes_id:
            record.accept_id(headers.get(self._id_header) if self._trusts_id else None)
        if self._trace is None and b"traceparent" in headers:
            record.accept_traceparent(headers[b"traceparent"])
        # Not reset: what is raised here is logged by the server, with the request's id.
        current_stats.set(record)
        if self._metrics is not None:
            self._metrics.in_flight += 1
        if self._deadlines is not None:
            self._deadlines.add(record)
        return record

    async def _end_record(self, record: RequestRecord) -> None:
        """End what an answer ends, if there was none or it was not complete."""
        try:
            if record.managed_session is not None:
                await record.close_session(failed=True)
            if record.scopes:
                await record.close_scopes()
        finally:
            self._count_and_log(record)
            if self._metrics is not None:
                self._metrics.in_flight -= 1
            if self._deadlines is not None:
                self._deadlines.remove(record)
            if record.is_late and (task := asyncio.current_task()) is not None:
                task.uncancel()

    def _check_headers(self, record: RequestRecord, headers: dict[bytes, bytes]) -> Response | None:
        """Return the answer to a request that is refused for its headers."""
        scope = record.scope
        if has_ambiguous_host(scope, headers):
            return problem_response(400, "A request has one Host header.", headers=CLOSE)
        if not self._is_host_allowed(scope, headers):
            return problem_response(400, "This host is not served here.")
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > self._max_body:
            detail = self._limits.check_body(record, int(length))
            if detail is not None:
                return problem_response(413, detail, headers=CLOSE)
        return None

    def _is_host_allowed(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        if self._any_host or self._allows_host(headers.get(b"host", b"")):
            return True
        return scope["path"] in self._never_checked

    async def _receive_body(self, record: RequestRecord, receive: Receive) -> Message:
        """Pass a part of the body on, unless it is too large."""
        record.awaits_body = not record.has_whole_body
        message = await receive()
        record.awaits_body = False
        if message["type"] == "http.request":
            record.received_bytes += len(message.get("body", b""))
            record.has_whole_body = not message.get("more_body", False)
            if record.received_bytes > self._max_body:
                detail = self._limits.check_body(record, record.received_bytes)
                if detail is not None:
                    raise HTTPException(413, detail, CLOSE)
        return message

    def _send_answer(
        self, record: RequestRecord, receive: Receive, send: Send, message: Message
    ) -> Awaitable[None]:
        """Pass a part of the answer on: its start completed, its end noted."""
        kind = message["type"]
        if kind == "http.response.start":
            if record.managed_session is not None:
                return self._end_session_and_send(record, send, message)
            self._start_answer(record, message)
        elif kind == "http.response.body" and not message.get("more_body", False):
            if record.is_broken:  # Without an end, the server cuts the connection.
                return send({**message, "more_body": True})
            record.is_answered = True
            self._count_and_log(record)
            if not record.has_whole_body and not record.is_late:
                return _send_after_body(record, receive, send, message)
        return send(message)

    async def _end_session_and_send(
        self, record: RequestRecord, send: Send, message: Message
    ) -> None:
        await record.close_session(failed=message["status"] >= 400)
        self._start_answer(record, message)
        await send(message)

    def _start_answer(self, record: RequestRecord, message: Message) -> None:
        """Complete the headers of an answer; once it has begun, it may take its time."""
        record.status = message["status"]
        if self._deadlines is not None:
            self._deadlines.remove(record)
        headers = message.get("headers", [])
        added = self._secure_headers if record.scope["scheme"] == "https" else self._headers
        if not self._names.isdisjoint(given := {name for name, _ in headers}):
            added = [header for header in added if header[0] not in given]
        if record.request_id is not None:
            own = (self._id_header, record.request_id.encode())
            message["headers"] = [*headers, own, *added]
        else:
            message["headers"] = [*headers, *added]

    def _count_and_log(self, record: RequestRecord) -> None:
        """Count and log a request, once its answer is complete or will never be."""
        if not record.is_finished:
            record.is_finished = True
            record.status = record.status or NO_ANSWER
            if self._metrics is not None:
                self._metrics.observe(record)
            if self._log_access:
                log_access(record)


def _close_for_answers(send: Send) -> Send:
    """Close a websocket that was accepted, where an error would be answered over HTTP."""
    is_accepted = False

    async def close_or_send(message: Message) -> None:
        nonlocal is_accepted
        kind: str = message["type"]
        if is_accepted and kind == "websocket.http.response.start":
            status = message["status"]
            # Of RFC 6455: try again, refused or failed.
            code = 1013 if status == 503 else 1008 if status < 500 else 1011
            await send({"type": "websocket.close", "code": code})
        elif not is_accepted or kind != "websocket.http.response.body":
            is_accepted = is_accepted or kind == "websocket.accept"
            await send(message)

    return close_or_send


async def _send_after_body(
    record: RequestRecord, receive: Receive, send: Send, message: Message
) -> None:
    """Send the end of an answer once the rest of the body is read, and discarded.

    A connection that is closed while its client still sends is reset, and many clients then
    never read the answer. One that waits for "100 Continue" sends nothing after an answer.
    """
    if b"expect" not in read_headers(record.scope):
        await send({**message, "more_body": True})
        message = {"type": "http.response.body"}
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
    await send(message)
