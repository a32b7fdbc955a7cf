"""Answers that failed on the way: whoever reads them must not take them for complete ones."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BrokenAnswerMiddleware:
    """Notes that an answer failed after it had begun.

    A `BaseHTTPMiddleware` around it ends such an answer as if it were complete, and raises after
    that: half of an export would look like the whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        has_begun = False

        async def note_start(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, note_start)
        except Exception:
            if scope["type"] == "http":
                scope["chassis"].is_broken = has_begun
            raise


INNERMOST = Middleware(BrokenAnswerMiddleware)


def watch_answers(app: Starlette) -> None:
    """Note broken answers inside of an application's own middleware, if it has any."""
    added = app.user_middleware
    if added and added[-1] is not INNERMOST:
        added.append(INNERMOST)
