"""Errors as problem details (RFC 9457): one shape for every answer that is not a success."""

import asyncio
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_plus

from fastapi import Request
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from ..db.errors import (
    DatabaseUnavailableError,
    Failure,
    InvalidValueError,
    NestedWriteScopeError,
    ReadOnlySessionError,
    TimeZoneError,
    classify,
    describe_error,
    find_invalid_value,
)
from .request import RequestRecord, current_request

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
# After it, nothing of a request is read.
CLOSE = {"Connection": "close"}

_SESSION_IS_CLOSED = (
    "it used its session after it had ended with the handler: a stream or a background task takes "
    "DbSessions and opens one of its own, session_scope(sessions.read)"
)

_REGISTERED_STATUSES = frozenset(HTTPStatus)

BUG = "Something went wrong here, not with the request."

_DATABASE_PROBLEMS = {
    Failure.UNAVAILABLE: (503, "The database can't serve this request now; try again."),
    Failure.CONFLICT: (409, "The change conflicts with data that exists already."),
    Failure.INVALID: (422, "The request holds a value that the database can't take."),
    Failure.TIMEOUT: (504, "The database took too long to answer."),
}


class InvalidInput(BaseModel):
    """One thing that is wrong with a request; never the value that was sent."""

    type: str = Field(description="A stable code of what is wrong.")
    loc: list[str | int] = Field(description="Where it is: body, query, path …, then the field.")
    msg: str = Field(description="What is expected.")


class Problem(BaseModel):
    """A problem detail (RFC 9457)."""

    type: str = Field("about:blank", description="A URI that names the kind of problem.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status code.")
    detail: str | None = Field(None, description="What went wrong this time.")
    request_id: str | None = Field(None, description="The request's name in the logs.")
    errors: list[InvalidInput] | None = Field(None, description="What is wrong with the input.")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems a route answers with: `responses=problem_responses(404, 409)`."""
    return {status: {"model": Problem, "description": _phrase_of(status)} for status in statuses}


def problem_response(
    status: int,
    detail: str | None = None,
    *,
    errors: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Build the answer for a problem; a 503 gets `Retry-After`."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": _phrase_of(status),
        "status": status,
    }
    if detail is not None and detail != content["title"]:
        content["detail"] = detail
    request = current_request()
    if request is not None and request.request_id is not None:
        content["request_id"] = request.request_id
    if errors is not None:
        content["errors"] = errors
    headers = dict(headers or {})
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def add_error_handlers(app: Starlette) -> None:
    """Answer with problem details, whatever goes wrong; other handlers of the application stay."""
    # One for 500 is for the same as one for Exception, and the later of both would win.
    given = {Exception: app.exception_handlers.get(500), **app.exception_handlers}
    for kind, handler in _HANDLERS.items():
        if given.get(kind) in (None, *_DEFAULT_HANDLERS):
            app.add_exception_handler(kind, handler)


def log_failure(request: RequestRecord, error: Exception) -> bool:
    """Log what a request failed with, once, and return whether its answer was complete before.

    A traceback is for bugs: what a database refuses is one line, as is a session that was closed.
    """
    request.is_reported = True
    # Starlette wraps what it could have answered, had the answer not begun.
    cause = error.__cause__ if isinstance(error.__cause__, _DATABASE_ERRORS) else error
    if classify(cause) in _DATABASE_PROBLEMS:
        logger.warning("%s: its answer was cut off: %s", request.name, describe_error(cause))
    elif "permanently closed" in str(cause) and isinstance(cause, InvalidRequestError):
        logger.error("%s: %s", request.name, _SESSION_IS_CLOSED)
    else:
        logger.error("%s failed", request.name, exc_info=error)
    return request.is_answered


def answer_database_error(request: RequestRecord, error: BaseException) -> Response | None:
    """Log and answer what the database refused, in one line; return None for anything else."""
    failure = classify(error)
    if failure not in _DATABASE_PROBLEMS:
        return None
    status, detail = _DATABASE_PROBLEMS[failure]
    logger.warning("%s: %s: %s", request.name, status, describe_error(error))
    return problem_response(status, detail)


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # A body that is too large, inside of a `BaseHTTPMiddleware`: FastAPI calls it not readable.
    if isinstance(error.__cause__, ExceptionGroup):
        error = next(
            (one for one in _flatten_group(error.__cause__) if isinstance(one, HTTPException)),
            error,
        )
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers=error.headers)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers |= _allow_header(request)
    return problem_response(error.status_code, error.detail, headers=headers)


async def _handle_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"type": one["type"], "loc": list(one["loc"]), "msg": one["msg"]} for one in error.errors()
    ]
    return problem_response(422, "The request is not valid.", errors=errors)


async def _handle_database_error(request: Request, error: Exception) -> Response:
    refused = find_invalid_value(error)
    own = isinstance(refused, TimeZoneError) and not await _client_sent(request, refused.value)
    response = None if own else answer_database_error(request.scope["chassis"], error)
    if response is None:
        raise error
    return response


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
    found = list(_flatten_group(error))
    if all(isinstance(one, HTTPException) for one in found):
        return await _handle_http_exception(request, found[0])
    if all(classify(one) in _DATABASE_PROBLEMS for one in found):
        return await _handle_database_error(request, found[0])
    raise error


def _flatten_group(error: BaseException | None) -> Iterator[Exception]:
    """Yield the errors in a group, and in the groups within."""
    if isinstance(error, ExceptionGroup):
        for one in error.exceptions:
            yield from _flatten_group(one)
    elif isinstance(error, Exception):
        yield error


_DATABASE_ERRORS = (
    SQLAlchemyError,
    DatabaseUnavailableError,
    InvalidValueError,
    ReadOnlySessionError,
    NestedWriteScopeError,
)
_HANDLERS: dict[type[Exception], ExceptionHandler] = {
    HTTPException: _handle_http_exception,
    RequestValidationError: _handle_invalid_request,
    **dict.fromkeys(_DATABASE_ERRORS, _handle_database_error),
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


def _phrase_of(status: int) -> str:
    """Return the words of a status; not every one in use is registered, such as 499 and 520."""
    return HTTPStatus(status).phrase if status in _REGISTERED_STATUSES else f"Status {status}"
