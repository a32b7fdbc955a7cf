"""What is around and inside of a service's own middleware: its errors, and answers within."""

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .request import RequestRecord
from .responses import answer_cancelled, answer_database_error


class AnswerMiddleware:
    """Closes the session before an answer begins, and notes an answer that failed after that.

    What is around it may keep an answer for long. A `BaseHTTPMiddleware` ends a failed one as if
    it were complete, and raises after that: half of an export would look like the whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record: RequestRecord = scope["chassis"]
        has_begun = False
        failure: Exception | None = None

        async def end_session_and_send(message: Message) -> None:
            nonlocal has_begun, failure
            if not has_begun:
                try:
                    await record.close_session(failed=message.get("status", 200) >= 400)
                except Exception as error:
                    failure = error
                    raise
                has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, end_session_and_send)
        except Exception:
            record.is_broken = has_begun
            await record.close_session(failed=True)
            # Starlette hides what the session raised, as if the answer had begun.
            response = None if failure is None else answer_database_error(record, failure)
            if response is None:
                raise
            await response(scope, receive, send)


INNERMOST = Middleware(AnswerMiddleware)


def enclose_middleware(app: Starlette) -> None:
    """Answer what an application's own middleware raises as what a handler does; watch answers.

    An application without any gets nothing.
    """
    added = app.user_middleware
    if added and added[-1] is not INNERMOST:
        handlers = dict(app.exception_handlers)
        # These two are for bugs, outside of all middleware.
        for kind in (500, Exception):
            handlers.pop(kind, None)
        added.insert(0, Middleware(ExceptionMiddleware, handlers=handlers))
        added.append(INNERMOST)


def answer_cancellations(app: ASGIApp) -> ASGIApp:
    """Answer a cancelled request inside of its span, which is otherwise ended without a status."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            await answer_cancelled(scope["chassis"], receive, send)

    return serve
