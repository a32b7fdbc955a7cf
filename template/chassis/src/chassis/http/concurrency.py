"""How many requests are served at once: the one above is refused, rather than all made slow."""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .responses import problem_response

if TYPE_CHECKING:
    from ..observe.metrics import Metrics

REFUSED = "The service has as many requests as it serves at once; try again."


class ConcurrencyLimit:
    """Answers 503 to the requests of this process above a limit.

    A request counts until its answer begins, as it does for the time that it may take: a stream
    holds no place, and neither does a websocket.
    """

    def __init__(
        self, app: ASGIApp, limit: int, exempt: AbstractSet[str], metrics: "Metrics | None"
    ) -> None:
        self.app = app
        self._limit = limit
        self._exempt = exempt
        self._metrics = metrics
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request if there is a place for it."""
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self.app(scope, receive, send)
        elif self._running < self._limit:
            await self._serve(scope, receive, send)
        else:
            if self._metrics is not None:
                self._metrics.refused.inc()
            await problem_response(503, REFUSED)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_counted = True

        def leave() -> None:
            nonlocal is_counted
            self._running -= is_counted
            is_counted = False

        async def send_and_leave(message: Message) -> None:
            leave()
            await send(message)

        self._running += 1
        try:
            await self.app(scope, receive, send_and_leave)
        finally:
            leave()
