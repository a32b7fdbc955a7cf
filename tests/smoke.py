"""Render a service from this checkout, lock, boot and test it: `python -m tests.smoke`.

For the CI of an organisation that keeps a fork of the template: it tests what its own teams will
render, with their answers, and leaves nothing behind.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.project import Answers, render
from tests.releases import this_one
from tests.repository import FIRST
from tests.service import Service


def main() -> None:
    """Run the steps of a new service's first day, and stop at the first that fails."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        check(Path(folder), dict(pair.split("=", 1) for pair in arguments.data), arguments.database)
    print("the rendered service locks, boots and passes its tests")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.smoke", description=__doc__)
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="QUESTION=ANSWER",
        help="an answer other than the default; may be repeated",
    )
    parser.add_argument(
        "--database",
        default="sqlite",
        metavar="sqlite|postgres|URL",
        help="where the service's own tests keep their data",
    )
    return parser.parse_args()


def check(folder: Path, answers: Answers, database: str) -> None:
    """Render, lock and install, migrate, serve and test."""
    say("render")
    release = this_one(folder / "template")
    rendered = render(release.repository.path, folder / "service", answers, ref=FIRST)
    service = Service(rendered, Path(sys.executable))
    say("lock and install")
    service.install()
    say("migrate and serve")
    service.cli("migrate").check()
    with service.serve() as client:
        for path in ("/livez", "/readyz"):
            assert client.get(path).status_code == 200, f"{path} does not answer 200"
    say("test")
    service.run("pytest", "--quiet", "--database", database).check()
    service.run("pytest", "--quiet", "chassis", "--database", database).check()


def say(step: str) -> None:
    """Name a step before it begins."""
    print(f"{step} …", flush=True)


if __name__ == "__main__":
    main()
