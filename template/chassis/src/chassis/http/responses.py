"""Responses to what went wrong: a problem with the id of the request, and a line in the log."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Send

from ..db.conflicts import find_conflict
from ..db.errors import (
    DatabaseUnavailableError,
    Failure,
    InvalidValueError,
    NestedWriteScopeError,
    ReadOnlySessionError,
    classify,
    describe_error,
)
from .problems import MEDIA_TYPE, UNTYPED, describe_problem
from .request import RequestRecord, current_request

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
# For an answer after which no more of the request is read.
CLOSE = {"Connection": "close"}
BUG = "Something went wrong here, not with the request."

DATABASE_PROBLEMS = {
    Failure.UNAVAILABLE: (503, "The database can't serve this request now; try again."),
    Failure.CONFLICT: (409, "The change conflicts with data that exists already."),
    Failure.STALE: (409, "It was changed or deleted meanwhile; read it again."),
    Failure.INVALID: (422, "The request holds a value that the database can't take."),
    Failure.TIMEOUT: (504, "The database took too long to answer."),
}
# What is raised for them, and for bugs.
DATABASE_ERRORS = (
    SQLAlchemyError,
    DatabaseUnavailableError,
    InvalidValueError,
    ReadOnlySessionError,
    NestedWriteScopeError,
)
_SESSION_IS_CLOSED = (
    "it used its session after it had ended with the handler: a stream or a background task takes "
    "DbSessions and opens one of its own, session_scope(sessions.read)"
)


class EarlyResponse(Exception):  # noqa: N818
    """What a dependency raises to answer a request in place of the handler."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def problem_response(
    status: int,
    detail: str | None = None,
    *,
    type: str = UNTYPED,
    title: str | None = None,
    errors: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """Build the answer of a ProblemError; a 503 gets `Retry-After`."""
    problem = describe_problem(status, detail, type=type, title=title, errors=errors, **members)
    return answer_problem(problem, headers)


def answer_problem(problem: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Build the answer for a problem that was described, with the id of the request."""
    request = current_request()
    if request is not None and request.request_id is not None:
        problem = problem | {"request_id": request.request_id}
    headers = dict(headers or {})
    if problem["status"] == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return JSONResponse(problem, problem["status"], headers, media_type=MEDIA_TYPE)


def answer_database_error(request: RequestRecord, error: BaseException) -> Response | None:
    """Log and answer what the database refused, in one line; return None for anything else."""
    failure = find_failure(error)
    if failure not in DATABASE_PROBLEMS:
        return None
    status, detail = DATABASE_PROBLEMS[failure]
    logger.warning("%s: %s: %s", request.name, status, describe_error(error))
    return problem_response(status, detail, errors=_describe_conflict(error))


def find_failure(error: BaseException) -> Failure | None:
    """Return what an error means; a CHECK that was broken is a bug unless it names a field."""
    return classify(error) or (Failure.CONFLICT if find_conflict(error) else None)


def unchanged(app: ASGIApp) -> ASGIApp:
    """Return the application itself: the default of what may put a middleware around it."""
    return app


async def answer_cancelled(
    record: RequestRecord,
    receive: Receive,
    send: Send,
    surround: Callable[[ASGIApp], ASGIApp] = unchanged,
) -> None:
    """Answer a request that was cancelled; raise CancelledError unless it only took too long."""
    response = _describe_cancellation(record)
    if response is not None and not record.status:
        await surround(response)(record.scope, receive, send)
    if not record.is_late:
        raise asyncio.CancelledError


def _describe_cancellation(request: RequestRecord) -> Response | None:
    """Build the answer of a request that was cancelled, and log the cancellation, once."""
    if request.is_late and request.awaits_body:
        return problem_response(408, "The body took too long to arrive.", headers=CLOSE)
    if request.is_late:
        return problem_response(504, "The request took too long to serve.")
    if request.is_reported:
        return None
    request.is_reported = True
    if request.status:
        part = "in its background task" if request.is_answered else "before its answer was complete"
        logger.warning("%s: cancelled %s", request.name, part)
        return None
    logger.warning("%s: 503: cancelled before it was answered", request.name)
    detail = "The service stopped before the request was served; try again."
    return problem_response(503, detail, headers=CLOSE)


def _describe_conflict(error: BaseException) -> list[dict[str, Any]] | None:
    """Return the error of the field that a broken constraint names by its `info`, if it does."""
    found = find_conflict(error)
    if found is None:
        return None
    return [{"type": "conflict", "loc": ["body", found.field], "msg": found.message}]


def log_failure(request: RequestRecord, error: Exception) -> bool:
    """Log what a request failed with, once, and return whether its answer was complete before.

    A traceback is for bugs: what a database refuses is one line, as is a session that was closed.
    """
    request.is_reported = True
    # Starlette wraps what it could have answered, had the answer not begun; and a stream of events
    # is sent by a task group.
    wrapped = list(flatten_group(error.__cause__))
    cause = wrapped[0] if len(wrapped) == 1 and isinstance(wrapped[0], DATABASE_ERRORS) else error
    if find_failure(cause) in DATABASE_PROBLEMS:
        logger.warning("%s: its answer was cut off: %s", request.name, describe_error(cause))
    elif "permanently closed" in str(cause) and isinstance(cause, InvalidRequestError):
        logger.error("%s: %s", request.name, _SESSION_IS_CLOSED)
    else:
        logger.error("%s failed", request.name, exc_info=error)
    return request.is_answered


def flatten_group(error: BaseException | None) -> Iterator[Exception]:
    """Yield the errors in a group, and in the groups within."""
    if isinstance(error, ExceptionGroup):
        for one in error.exceptions:
            yield from flatten_group(one)
    elif isinstance(error, Exception):
        yield error
