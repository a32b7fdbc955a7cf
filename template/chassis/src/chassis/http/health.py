"""Health endpoints: /livez says that the process runs, /readyz that it can serve."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ..db.errors import describe_error
from .problems import problem_response, problem_responses

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_SECONDS = 3.0

# Returns None when ready, else the reason in a few words. What it raises is logged, not shown.
ReadinessCheck = Callable[[], Awaitable[str | None]]


def add_readiness_check(app: FastAPI, name: str, check: ReadinessCheck) -> None:
    """Let `/readyz` run a check of the service's own. Raise ValueError if its name is taken."""
    checks: dict[str, ReadinessCheck] = app.state.readiness_checks
    if name in checks:
        raise ValueError(f"there is a readiness check named {name!r} already")
    checks[name] = check


def add_health_routes(router: APIRouter) -> None:
    """Add `/livez` and `/readyz`."""
    router.add_api_route("/livez", livez, tags=["health"], summary="Does the process run?")
    router.add_api_route(
        "/readyz",
        readyz,
        tags=["health"],
        summary="Can requests be served?",
        responses=problem_responses(503),
    )


async def livez() -> dict[str, str]:
    """Answer without any check: a restart is the cure if this fails."""
    return {"status": "ok"}


async def readyz(request: Request) -> Response:
    """Run all checks: the database, a schema not older than the code, and what was added."""
    checks: dict[str, ReadinessCheck] = request.app.state.readiness_checks
    answers = await asyncio.gather(*(_run_check(name, check) for name, check in checks.items()))
    failures = [f"{name}: {reason}" for name, reason in zip(checks, answers, strict=True) if reason]
    if failures:
        return problem_response(503, "; ".join(failures))
    return JSONResponse({"status": "ok", "checks": dict.fromkeys(checks, "ok")})


async def _run_check(name: str, check: ReadinessCheck) -> str | None:
    """Return why the service is not ready, by one check; None if it is."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return await check()
    except Exception as error:
        logger.warning("the readiness check %s failed: %s", name, describe_error(error))
        logger.debug("the error of the readiness check", exc_info=True)
        return "it does not answer"
