"""What runs beside the requests where an application has jobs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI

from ..db.sessions import Sessions
from ..settings import ChassisSettings
from .records import clean_up
from .schedule import Scheduled, run_schedules

if TYPE_CHECKING:
    from ..tasks import Work
    from .worker import Worker


@asynccontextmanager
async def run_jobs(
    app: FastAPI, worker: "Worker", scheduled: Sequence[Scheduled]
) -> AsyncIterator[None]:
    """Run the worker, the schedules and the clean-up, unless left to others, and the metrics."""
    from ..tasks import supervised

    settings: ChassisSettings = app.state.settings
    sessions: Sessions = app.state.sessions
    loops: dict[str, Work] = {}
    if settings.metrics_enabled:
        from .metrics import job_metrics

        worker.observe = job_metrics().observe
        loops["job metrics"] = partial(job_metrics().watch_table, sessions)
    if settings.jobs_in_server:
        loops["jobs"] = worker.run
        loops["clean-up of jobs"] = partial(clean_up, sessions, keep_days=settings.jobs_keep_days)
        if scheduled:
            loops["schedules of jobs"] = partial(run_schedules, scheduled, sessions)
    async with AsyncExitStack() as stack:
        for name, loop in loops.items():
            await stack.enter_async_context(supervised(app, name, loop))
        yield
