"""Health endpoints: /livez says that the process runs, /readyz that it can serve."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ..db.errors import describe_error
from .openapi import operation_id
from .problems import problem_responses
from .responses import problem_response

logger = logging.getLogger(__name__)
health_router = APIRouter(tags=["health"], generate_unique_id_function=operation_id)

CHECK_TIMEOUT_SECONDS = 3.0

# None, True or an empty text is ready; False or a reason, in a few words, is not.
Readiness = bool | str | None
ReadinessCheck = Callable[[], Awaitable[Readiness] | Readiness]
_AsyncCheck = Callable[[], Awaitable[object]]


def add_readiness_check(app: FastAPI, name: str, check: ReadinessCheck) -> None:
    """Let `/readyz` run a check of the service's own: a function, `async` or not.

    Not ready is what returns False or a reason, raises (that is logged and not shown), or takes
    longer than 3 s. Raise ValueError if the name is taken, TypeError if the check is no function.
    """
    checks: dict[str, _AsyncCheck] = app.state.readiness_checks
    if name in checks:
        raise ValueError(f"there is a readiness check named {name!r} already")
    if not callable(check):
        raise TypeError(
            f"the readiness check {name!r} must be a function without arguments, not {check!r}: "
            "add_readiness_check(app, name, check), without calling it"
        )
    checks[name] = check if iscoroutinefunction(check) else _ThreadedCheck(check)


@health_router.get("/livez", summary="Does the process run?")
async def livez() -> dict[str, str]:
    """Answer without any check: a restart is the cure if this fails."""
    return {"status": "ok"}


@health_router.get("/readyz", summary="Can requests be served?", responses=problem_responses(503))
async def readyz(request: Request) -> Response:
    """Run all checks: the database, a schema not older than the code, and what was added."""
    checks: dict[str, _AsyncCheck] = request.app.state.readiness_checks
    answers = await asyncio.gather(*(_run_check(name, check) for name, check in checks.items()))
    failures = [f"{name}: {reason}" for name, reason in zip(checks, answers, strict=True) if reason]
    if failures:
        return problem_response(503, "; ".join(failures))
    return JSONResponse({"status": "ok", "checks": dict.fromkeys(checks, "ok")})


async def _run_check(name: str, check: _AsyncCheck) -> str | None:
    """Return why the service is not ready, by one check; None if it is."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            answer = await check()
    except Exception as error:
        logger.warning("the readiness check %s failed: %s", name, describe_error(error))
        logger.debug("the error of the readiness check", exc_info=True)
        return "it does not answer"
    match answer:
        case None | True | "":
            return None
        case False:
            return "it is not ready"
        case str():
            return answer
    logger.error(
        "the readiness check %s returned %s: None or True says ready, False or a reason (str) not",
        name,
        type(answer).__name__,
    )
    return "its check is wrong"


class _ThreadedCheck:
    """A check that may block: it runs in a thread, once for all probes that wait for it.

    If it hangs, it takes this one thread, and not another one for each probe.
    """

    def __init__(self, check: ReadinessCheck) -> None:
        self._check = check
        self._run: asyncio.Future[object] | None = None

    async def __call__(self) -> object:
        """Return what the check returns."""
        if self._run is None or self._run.done():
            self._run = asyncio.ensure_future(self._run_in_thread())
        return await asyncio.shield(self._run)

    async def _run_in_thread(self) -> object:
        answer = await asyncio.to_thread(self._check)
        # A lambda may return an awaitable, and so does an asynchronous `__call__`.
        return await answer if isawaitable(answer) else answer
