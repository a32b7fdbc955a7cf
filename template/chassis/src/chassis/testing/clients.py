"""Clients of an application that is started in the test's own process."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp, Receive, Scope, Send

from ..db.session_guards import has_uncommitted_changes
from ..db.statements import current_stats
from .callers import Client


@asynccontextmanager
async def start_application(
    app: FastAPI, sessions: Sequence[AsyncSession]
) -> AsyncIterator[Callable[..., Client]]:
    """Start an application; yield what makes clients of it, which are closed with it.

    A request fails the test if one of the test's own sessions has something to commit.
    """

    async def check_sessions(request: Request) -> None:
        require_commits(sessions, "the request")

    async with app.router.lifespan_context(app) as state, AsyncExitStack() as stack:
        transport = ASGITransport(_with_state(app, dict(state or {})))

        def make_client(**options: Any) -> Client:
            options.setdefault("base_url", "http://testserver")
            client = Client(app.state.settings, transport=transport, **options)
            client.event_hooks["request"].append(check_sessions)
            stack.push_async_callback(client.aclose)
            return client

        yield make_client


def require_commits(sessions: Sequence[AsyncSession], moment: str) -> None:
    """Fail the test if one of its sessions has something to commit before a moment."""
    if any(map(has_uncommitted_changes, sessions)):
        pytest.fail(
            "the fixture `session` has written, and the service can't see it, or waits for it: "
            f"commit before {moment}"
        )


def _with_state(app: ASGIApp, state: dict[str, Any]) -> ASGIApp:
    """Pass the state of the lifespan to each request, as a server does.

    A test goes on in the request's task: what it does then is none of the request's.
    """

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        outside = current_stats.set(None)
        try:
            await app({**scope, "state": state.copy()}, receive, send)
        finally:
            current_stats.reset(outside)

    return with_state
