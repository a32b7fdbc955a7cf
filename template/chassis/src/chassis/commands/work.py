"""The command `work`: the application's lifespan and its jobs, without its requests."""

import asyncio
import logging
import signal
import sys
from pkgutil import resolve_name
from typing import Any

import click
from fastapi import FastAPI

from ..db.sqlite.pragmas import version_warning
from ..http.stopping import LIFESPAN_END_SECONDS, Shutdown, end_all_tasks, server_shutdown
from ..settings import ChassisSettings
from .service import ServiceReference, load_settings

logger = logging.getLogger(__name__)


@click.command()
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Run jobs of this alone.")
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Jobs to run at once, else APP_JOBS_CONCURRENCY or 4.",
)
@click.pass_obj
def work(service: ServiceReference, queues: tuple[str, ...], concurrency: int | None) -> None:
    """Run jobs, without serving requests."""
    load_settings(service.settings)
    app: FastAPI = resolve_name(service.app)()
    if (registry := getattr(app, "jobs", None)) is None:
        raise click.ClickException(
            "the application has no jobs: name them in main.py, create_app(…, jobs=(…,))"
        )
    for queue in queues:
        if queue not in registry.names_by_queue():
            known = ", ".join(registry.names_by_queue())
            raise click.UsageError(f"--queue: no job has the queue {queue}; there are {known}")
    settings: ChassisSettings = app.state.settings
    changes: dict[str, Any] = {"jobs_in_server": True}
    if concurrency is not None:
        changes["jobs_concurrency"] = concurrency
    app.state.settings = settings.model_copy(update=changes)
    registry.worked_queues = queues
    is_sqlite = settings.database_target.backend == "sqlite"
    if is_sqlite and (warning := version_warning(2)):
        logger.warning("beside a server, %s", warning)
    logger.info(
        "runs jobs of %s, %d at once",
        ", ".join(queues or registry.names_by_queue()),
        app.state.settings.jobs_concurrency,
    )
    with asyncio.Runner() as runner:
        try:
            runner.run(_work(app, app.state.settings))
        except asyncio.CancelledError:
            logger.warning("stopped at once, as Ctrl-C was pressed again")
            runner.run(end_all_tasks())
            sys.exit(128 + signal.SIGINT)
        runner.run(end_all_tasks())


async def _work(app: FastAPI, settings: ChassisSettings) -> None:
    shutdown = Shutdown()
    server_shutdown.set(shutdown)
    task = asyncio.current_task()
    assert task is not None

    def stop(sign: signal.Signals) -> None:
        # SIGTERM comes twice where `uv run` hands on what its process group got.
        if shutdown.for_tasks.is_set() and sign == signal.SIGINT:
            shutdown.begin(0)
            task.cancel()
        shutdown.begin(settings.server_graceful_timeout_seconds)
        shutdown.for_requests.set()

    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop, sign)
    async with asyncio.timeout(None) as limit, app.router.lifespan_context(app):
        await shutdown.for_tasks.wait()
        await shutdown.wait_for_tasks()
        limit.reschedule(asyncio.get_running_loop().time() + LIFESPAN_END_SECONDS)
