"""Compare the rendered service with the baselines: `uv run python -m benchmarks`."""

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.candidates import VARIANTS, Backend, Candidate, baseline, variant
from benchmarks.servers import Server, Slice, cold_start, run
from tests.postgres import Postgres, start_postgres
from tests.releases import this_one
from tests.repository import FIRST
from tests.service import Service

Results = defaultdict[tuple[str, str, str], list[Slice]]
WORKS = ("W0", "W1", "W2", "W3")


def main() -> None:
    """Run it all and print the tables."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("the load comes from wrk, which is not on the path: apt install wrk")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        postgres = stack.enter_context(start_postgres())
        service = install(folder)
        log = folder / "log"
        candidates = list(prepare(options, service, postgres))
        servers = [stack.enter_context(run(one, log)) for one in candidates]
        results = drive(options, servers)
        memory: dict[tuple[str, str], float] = {
            (one.candidate.name, one.candidate.backend): one.memory_mib() for one in servers
        }
        starts = measure_starts(options, candidates, log)
    show(options, results, memory, starts)


def install(folder: Path) -> Service:
    """Render the work tree as a service and install it with the extras it needs here."""
    rendered = this_one(folder / "this").render(FIRST, {})
    service = Service(rendered, Path(sys.executable)).install()
    service.uv("add", "--quiet", "service-chassis[metrics,tracing]==0+template").check()
    return service


def prepare(
    options: argparse.Namespace, service: Service, postgres: Postgres
) -> Iterator[Candidate]:
    """Make the databases of everything that is compared."""
    for backend in options.backend:
        if backend == "postgres":
            yield baseline("L3", backend, service, postgres)
        yield baseline("L4", backend, service, postgres)
        for name in options.variant:
            yield variant(name, backend, service, postgres)


def drive(options: argparse.Namespace, servers: list[Server]) -> Results:
    """Drive every server with every kind of work, in turns, after a warm-up."""
    results: Results = defaultdict(list)
    for number in range(options.rounds + 1):
        seconds = options.seconds if number else 1
        for work, server in turns(options, servers, number):
            seen = server.drive(work, clients=options.clients, seconds=seconds)
            if number:
                results[server.candidate.name, server.candidate.backend, work].append(seen)
        print(f"round {number} of {options.rounds}", file=sys.stderr)
    return results


def turns(
    options: argparse.Namespace, servers: list[Server], number: int
) -> Iterator[tuple[str, Server]]:
    """Order a round: the same work on every server in a row, beginning with another each time."""
    for work in options.work:
        for position in range(len(servers)):
            server = servers[(position + number) % len(servers)]
            if work != "W0" or server.candidate.backend == options.backend[0]:
                yield work, server


def measure_starts(
    options: argparse.Namespace, candidates: list[Candidate], log: Path
) -> dict[tuple[str, str], float]:
    """Take the median of some cold starts of each candidate, in turns."""
    seen: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(options.starts):
        for one in candidates:
            seen[one.name, one.backend].append(cold_start(one, log))
    return {name: median(values) for name, values in seen.items()}


def show(
    options: argparse.Namespace,
    results: Results,
    memory: dict[tuple[str, str], float],
    starts: dict[tuple[str, str], float],
) -> None:
    """Print what was measured, and how."""
    off = "all-off" if "all-off" in options.variant else options.variant[-1]
    print(
        f"{options.rounds} rounds of {options.seconds} s, {options.clients} clients, one worker; "
        "pools: L3 and L4 16, the service 5 write and 10 read, on SQLite L4 5, the service 1 and 10"
        "\nPostgreSQL does not wait for its disk (fsync off): what is compared is processor time"
    )
    for name in options.variant:
        report.print_ratios(results, list(report.ratios(name, off)))
    report.print_slices(results)
    print()
    for backend in options.backend:
        for name in options.variant:
            ours, theirs = (name, backend), ("L4", backend)
            what = f"{name} on {backend}"
            if starts:
                report.print_limit(
                    f"{what}, cold start", starts[ours], starts[theirs], "s", relative=True
                )
            report.print_limit(
                f"{what}, memory after load", memory[ours], memory[theirs], "MiB", relative=False
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    backends: list[Backend] = ["postgres", "sqlite"]
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=2, help="of each slice")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--starts", type=int, default=7, help="cold starts of each candidate")
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--backend", nargs="+", choices=backends, default=backends)
    parser.add_argument(
        "--variant",
        nargs="+",
        choices=VARIANTS,
        default=["all-on", "all-off"],
        help="settings of the service to compare: one part on, or one thing changed",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
