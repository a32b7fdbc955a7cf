"""Health endpoints: /livez says that the process runs, /readyz that it can serve."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from .errors import problem_response, problem_responses

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Does the process run?")
async def livez() -> dict[str, str]:
    """Answer without asking anything else: a restart is the cure when this fails."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can requests be served?", responses=problem_responses(503))
async def readyz(request: Request) -> Response:
    """Ask the database, and whether its schema is not older than the code."""
    reason: str | None = await request.app.state.database_probe.check()
    if reason is not None:
        return problem_response(503, reason)
    return JSONResponse({"status": "ok"})
