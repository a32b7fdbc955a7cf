"""Health endpoints: /livez says that the process runs, /readyz that it can serve."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ..db.errors import describe_error
from .problems import problem_response, problem_responses

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_SECONDS = 3.0

# Gives None when ready, else the reason in a few words. What it raises is logged and not shown.
ReadinessCheck = Callable[[], Awaitable[str | None]]


def add_readiness_check(app: FastAPI, name: str, check: ReadinessCheck) -> None:
    """Make `/readyz` ask for one thing more. Raises ValueError for a name that is taken."""
    checks: dict[str, ReadinessCheck] = app.state.readiness_checks
    if name in checks:
        raise ValueError(f"there is a readiness check named {name!r} already")
    checks[name] = check


def add_health_routes(app: FastAPI) -> None:
    """Add `/livez` and `/readyz`; to the application itself, where they are found first."""
    app.state.readiness_checks = {}
    app.add_api_route("/livez", livez, tags=["health"], summary="Does the process run?")
    app.add_api_route(
        "/readyz",
        readyz,
        tags=["health"],
        summary="Can requests be served?",
        responses=problem_responses(503),
    )


async def livez() -> dict[str, str]:
    """Answer without asking anything else: a restart is the cure when this fails."""
    return {"status": "ok"}


async def readyz(request: Request) -> Response:
    """Ask the database, whether its schema is not older than the code, and what else was added."""
    checks: dict[str, ReadinessCheck] = request.app.state.readiness_checks
    answers = await asyncio.gather(*(_ask(name, check) for name, check in checks.items()))
    failures = [f"{name}: {reason}" for name, reason in zip(checks, answers, strict=True) if reason]
    if failures:
        return problem_response(503, "; ".join(failures))
    return JSONResponse({"status": "ok", "checks": dict.fromkeys(checks, "ok")})


async def _ask(name: str, check: ReadinessCheck) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return await check()
    except Exception as error:
        logger.warning("the readiness check %s failed: %s", name, describe_error(error))
        logger.debug("the error of the readiness check", exc_info=True)
        return "it does not answer"
