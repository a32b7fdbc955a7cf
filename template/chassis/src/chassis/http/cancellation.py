"""Requests that are cancelled: because they take too long, or as the server has to stop."""

import asyncio
import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from .problems import CLOSE, problem_response
from .request import RequestRecord

logger = logging.getLogger(__name__)


class CancellationMiddleware:
    """Answers a cancelled request inside of its span, which is otherwise ended without a status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            await answer_cancelled(scope["chassis"], receive, send)


async def answer_cancelled(record: RequestRecord, receive: Receive, send: Send) -> None:
    """Answer a request that was cancelled, unless it was; raise CancelledError if it must end."""
    if record.is_late:
        await _answer_late(record, receive, send)
        return
    if not record.is_reported:
        record.is_reported = True
        await _answer_stopped(record, receive, send)
    raise asyncio.CancelledError


async def _answer_late(record: RequestRecord, receive: Receive, send: Send) -> None:
    if record.status:
        return
    if record.awaits_body:
        response = problem_response(408, "The body took too long to arrive.", headers=CLOSE)
    else:
        response = problem_response(504, "The request took too long to serve.")
    await response(record.scope, receive, send)


async def _answer_stopped(record: RequestRecord, receive: Receive, send: Send) -> None:
    if not record.status:
        logger.warning("%s: 503: cancelled before it was answered", record.name)
        detail = "The service stopped before the request was served; try again."
        await problem_response(503, detail, headers=CLOSE)(record.scope, receive, send)
    elif not record.is_answered:
        logger.warning("%s: cancelled before its answer was complete", record.name)
    else:
        logger.warning("%s: cancelled in its background task", record.name)
