"""What the server does around every application: drain, log bugs, report a start that failed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..http.request import RequestRecord
from ..http.responses import log_failure, problem_response
from ..http.stopping import LIFESPAN_END_SECONDS
from .clients import note_request


@dataclass(frozen=True)
class ServerMiddleware:
    """Send load balancers and clients elsewhere while the server drains; log what fails."""

    app: ASGIApp
    is_draining: Callable[[], bool]
    wait_for_tasks: Callable[[], Awaitable[object]]
    report_failed_start: Callable[[Exception], None]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request, a websocket or the lifespan on; note that its client is not idle."""
        note_request()
        if scope["type"] == "http":
            return self.serve(scope, receive, send)
        if scope["type"] == "lifespan":
            return self.run_lifespan(scope, receive, send)
        return self.app(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; a bug is logged here, as uvicorn would hang up after its answer."""
        try:
            await (self.drain if self.is_draining() else self.app)(scope, receive, send)
        except Exception as error:
            request: RequestRecord | None = scope.get("chassis")
            if request is None or not log_failure(request, error):
                raise

    async def drain(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and close the connection after it."""

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        app = self.app
        if scope["path"].removeprefix(scope.get("root_path", "")) == "/readyz":
            app = problem_response(503, "The service is stopping.")
        await app(scope, receive, send_and_close)

    async def run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan and limit its end; report a failed start without a traceback."""
        is_started = False

        async def receive_and_limit() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                # Theirs is the rest of the grace, not the time of the lifespan.
                await self.wait_for_tasks()
                limit.reschedule(asyncio.get_running_loop().time() + LIFESPAN_END_SECONDS)
            return message

        async def send_reason(message: Message) -> None:
            nonlocal is_started
            is_started = is_started or message["type"] == "lifespan.startup.complete"
            if message["type"] == "lifespan.startup.failed":
                message["message"] = ""
            if limit.expired():
                reason = f"the lifespan did not end in {LIFESPAN_END_SECONDS:g} s and is cancelled"
                message["message"] = f"{reason}\n{message.get('message', '')}"
            await send(message)

        try:
            async with asyncio.timeout(None) as limit:
                await self.app(scope, receive_and_limit, send_reason)
        except Exception as error:
            if not is_started:
                self.report_failed_start(error)
            raise
