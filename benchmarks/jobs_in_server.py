"""What the worker in the server costs W3, inserts: none, one without work, one that always works.

`uv run python -m benchmarks.jobs_in_server`; the servers that are not driven are suspended.
"""

import argparse
import signal
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.__main__ import install
from benchmarks.candidates import VARIANTS, Backend, Candidate, variant
from benchmarks.servers import Server, Slice, run
from tests.postgres import start_postgres
from tests.service import Service

JOBS = '''
"""A job that writes a row and enqueues itself, so that there is always work."""

from chassis.jobs import job
from sqlalchemy.ext.asyncio import AsyncSession

from .models import Item


@job
async def go_on(session: AsyncSession) -> None:
    """Write a row, and go on."""
    session.add(Item(name="of a job", quantity=1, price=1))
    await go_on.enqueue(session)
'''
BEGIN = """
import asyncio
from chassis.db import open_sessions, session_scope
from {package}.jobs import go_on
from {package}.settings import Settings

async def main():
    async with open_sessions(Settings()) as sessions, session_scope(sessions.write) as session:
        for _ in range(4):
            await go_on.enqueue(session)
        await session.commit()

asyncio.run(main())
"""
WORKERS = {"none": "false", "idle": "true", "busy": "true"}


def main() -> None:
    """Drive the three in turns, on each backend, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=2, help="of each slice")
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        postgres = stack.enter_context(start_postgres())
        service = add_jobs(install(folder))
        servers: list[Server] = []
        backends: tuple[Backend, ...] = ("postgres", "sqlite")
        for backend in backends:
            for worker, in_server in WORKERS.items():
                VARIANTS[worker] = VARIANTS["all-on"] | {"APP_JOBS_IN_SERVER": in_server}
                candidate = variant(worker, backend, service, postgres)
                if worker == "busy":
                    begin(service, candidate)
                servers.append(stack.enter_context(run(candidate, folder / "log")))
        show(drive(options, servers))


def add_jobs(service: Service) -> Service:
    """Give the service a job and the table."""
    package = service.folder / "src" / service.package
    (package / "jobs.py").write_text(JOBS.lstrip())
    models, main = package / "models" / "__init__.py", package / "main.py"
    with models.open("a") as file:
        file.write("from chassis.jobs import JobRecord as JobRecord\n")
    text = main.read_text().replace("routers=routers)", "routers=routers, jobs=[go_on])")
    main.write_text(text.replace("from .routers", "from .jobs import go_on\nfrom .routers"))
    made = service.with_environment(APP_DATABASE_SQLITE_PATH=str(service.folder / "made.db"))
    made.cli("migrate").check()
    made.run("alembic", "revision", "--autogenerate", "-m", "add jobs").check()
    return service


def begin(service: Service, candidate: Candidate) -> None:
    """Enqueue the first jobs."""
    script = BEGIN.format(package=service.package)
    service.with_environment(**candidate.environment).run("python", "-c", script).check()


def drive(options: argparse.Namespace, servers: list[Server]) -> dict[tuple[str, str], list[Slice]]:
    """Drive every server with inserts, beginning with another each round, after a warm-up."""
    seen: defaultdict[tuple[str, str], list[Slice]] = defaultdict(list)
    for server in servers:
        server.process.send_signal(signal.SIGSTOP)
    for number in range(options.rounds + 1):
        for position in range(len(servers)):
            server = servers[(position + number) % len(servers)]
            server.process.send_signal(signal.SIGCONT)
            found = server.drive("W3", clients=options.clients, seconds=options.seconds)
            server.process.send_signal(signal.SIGSTOP)
            if number:
                seen[server.candidate.backend, server.candidate.name].append(found)
        print(f"round {number} of {options.rounds}", file=sys.stderr)
    for server in servers:
        server.process.send_signal(signal.SIGCONT)
    return seen


def show(seen: dict[tuple[str, str], list[Slice]]) -> None:
    """Print medians, and the medians of same-round ratios to the server without a worker."""
    print("| backend | worker | requests/s | ratio | CPU of none's | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|")
    for (backend, worker), slices in sorted(seen.items()):
        pairs = list(zip(slices, seen[backend, "none"], strict=True))
        ratio = median(one.requests_per_second / none.requests_per_second for one, none in pairs)
        cpu = median(one.cpu / none.cpu for one, none in pairs)
        speed, p50, p99 = (
            median(getattr(each, name) for each in slices)
            for name in ("requests_per_second", "p50", "p99")
        )
        print(
            f"| {backend} | {worker} | {speed:.0f} | {ratio:.2f} | {cpu:.2f} "
            f"| {p50:.1f} | {p99:.1f} |"
        )


if __name__ == "__main__":
    main()
