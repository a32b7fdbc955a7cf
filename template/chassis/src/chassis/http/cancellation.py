"""The answer to a request that was cancelled: it took too long, or the server stops."""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from .request import RequestRecord
from .responses import answer_cancellation


def unchanged(app: ASGIApp) -> ASGIApp:
    """Return the application itself: the default of what may put a middleware around it."""
    return app


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


async def answer_cancelled(
    record: RequestRecord,
    receive: Receive,
    send: Send,
    surround: Callable[[ASGIApp], ASGIApp] = unchanged,
) -> None:
    """Answer a request that was cancelled; raise CancelledError unless it only took too long."""
    response = answer_cancellation(record)
    if response is not None and not record.status:
        await surround(response)(record.scope, receive, send)
    if not record.is_late:
        raise asyncio.CancelledError
