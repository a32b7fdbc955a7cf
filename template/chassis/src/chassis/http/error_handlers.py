"""The handlers of errors: whatever goes wrong is answered with a problem."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time
from typing import Any, NoReturn
from urllib.parse import unquote_plus

from fastapi import Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ExceptionHandler
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..db.errors import TimeZoneError, find_invalid_value
from .problems import describe_exception
from .request import RequestRecord
from .responses import (
    BUG,
    DATABASE_ERRORS,
    DATABASE_PROBLEMS,
    EarlyResponse,
    answer_database_error,
    answer_problem,
    find_failure,
    flatten_group,
    problem_response,
)


class MountedError(Exception):
    """A bug in a mounted application, which has answered: no handler around it takes it again."""


def add_error_handlers(app: Starlette, handlers: Mapping[Any, ExceptionHandler]) -> None:
    """Add handlers to an application, or to one that is mounted in it; handlers of its own stay."""
    # One for 500 is for the same as one for Exception, and the later of both would win.
    own = app.exception_handlers
    given = {Exception: own.get(500), 500: own.get(Exception), **own}
    for kind, handler in handlers.items():
        if given.get(kind) in (None, *_DEFAULT_HANDLERS):
            app.add_exception_handler(kind, handler)


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # A body that is too large, inside of a `BaseHTTPMiddleware`: FastAPI calls it not readable.
    if isinstance(error.__cause__, ExceptionGroup):
        error = next(
            (one for one in flatten_group(error.__cause__) if isinstance(one, HTTPException)),
            error,
        )
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers=error.headers)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers |= _allow_header(request)
    return answer_problem(describe_exception(error), headers)


async def _answer_early(request: Request, error: Exception) -> Response:
    assert isinstance(error, EarlyResponse)
    return error.response


async def _end_left_websocket(websocket: WebSocket, error: Exception) -> None:
    """Do nothing for a client that has left, which a handler notices as it sends or receives."""


async def _handle_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(422, "The request is not valid.", errors=error.errors())


async def _handle_database_error(request: Request, error: Exception) -> Response:
    refused = find_invalid_value(error)
    own = isinstance(refused, TimeZoneError) and not await _client_sent(request, refused.value)
    response = None if own else answer_database_error(request.scope["chassis"], error)
    if response is None:
        _raise_bug(request, error)
    return response


def _raise_bug(request: Request, error: Exception) -> NoReturn:
    """Raise an error that is nobody's to handle, once it is answered, to the log and to tests."""
    if request.app is request.scope["chassis"].app:
        raise error
    raise MountedError(f"{type(error).__name__}: {error}") from error


async def _client_sent(request: Request, value: date | time) -> bool:
    """Return whether the client wrote a date or time; one of the service's own making is a bug."""
    body = b""
    # Only what the handler has read: to wait for more could take for ever.
    with suppress(ClientDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(0):
            body = await request.body()
    sent = unquote_plus(f"{request.url.path}?{request.url.query} {body.decode(errors='replace')}")
    if re.search(rf"(?<!\d){_whole_seconds(value)}", sent):
        return True
    day, _, clock = value.isoformat().partition("T")
    # To the minute, as seconds may be left out, and for midnight the whole time.
    day, clock = day[: 5 if isinstance(value, time) else 10], clock[:5]
    return day in sent and (clock in ("", "00:00") or clock in sent)


def _whole_seconds(value: date | time) -> str:
    """Return the whole seconds by which a client may have written it, which Pydantic takes."""
    if isinstance(value, time):
        return str(value.hour * 3600 + value.minute * 60 + value.second)
    if isinstance(value, datetime):
        return str(int(value.replace(tzinfo=value.tzinfo or UTC).timestamp()))
    return value.isoformat()


async def _handle_bug(request: Request, error: Exception) -> Response:
    """Answer what reached the outside."""
    record: RequestRecord = request.scope["chassis"]
    record.is_broken = False
    return problem_response(500, BUG)


async def _handle_group(request: Request, error: Exception) -> Response:
    """Answer what a task group raised as what went wrong in it, unless any of that is a bug."""
    found = list(flatten_group(error))
    if all(isinstance(one, WebSocketDisconnect) for one in found):
        # Which a websocket does not send.
        return Response()
    if all(isinstance(one, HTTPException) for one in found):
        return await _handle_http_exception(request, found[0])
    if all(find_failure(one) in DATABASE_PROBLEMS for one in found):
        return await _handle_database_error(request, found[0])
    _raise_bug(request, error)


PROBLEM_HANDLERS: dict[type[Exception], ExceptionHandler] = {
    EarlyResponse: _answer_early,
    HTTPException: _handle_http_exception,
    RequestValidationError: _handle_invalid_request,
    WebSocketDisconnect: _end_left_websocket,
    **dict.fromkeys(DATABASE_ERRORS, _handle_database_error),
    ExceptionGroup: _handle_group,
    Exception: _handle_bug,
}
# Those that FastAPI gives to each application.
_DEFAULT_HANDLERS = (http_exception_handler, request_validation_exception_handler)


def _allow_header(request: Request) -> dict[str, str]:
    """Name the methods of a path; Starlette names those of the first of its routes only."""
    mount, path = getattr(request.app.state, "mounted_at", ""), request.scope["chassis"].route
    methods: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        if f"{mount}{context.path_format}" == path:
            methods |= context.methods or set()
    return {"Allow": ", ".join(sorted(methods))} if methods else {}
