"""Run every scenario and print what its update did: `python -m tests.update_table`."""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.project import Outcome, tree, update_and_compare
from tests.releases import Releases, earlier_and_this, this_and_next
from tests.repository import FIRST, NEXT, earlier_versions
from tests.scale import FULL
from tests.scenarios import DOES_NOT_APPLY, IMPORTANT, SCENARIOS, Scenario

COLUMNS = "{:44} {:>6} {:>9} {:>8} {:>6} {:>6} {:>8} {:>6}"
HEADER = ("scenario", "files", "conflicts", "changed", "back", "lost", "chassis", "s")


@dataclass(frozen=True)
class Row:
    """A scenario, its outcome, how many files the project had, and how long the update took."""

    scenario: Scenario
    outcome: Outcome
    files: int
    seconds: float

    def __str__(self) -> str:
        outcome = self.outcome
        counts = (outcome.conflicts, outcome.changed, outcome.back, outcome.lost, outcome.chassis)
        return COLUMNS.format(
            self.scenario.name, self.files, *map(len, counts), f"{self.seconds:.1f}"
        )


def run(scenario: Scenario, releases: Releases, folder: Path) -> Row:
    """Play a scenario on the older release and update it to the newer one."""
    answers = dict(scenario.answers)
    project = scenario.play(releases.render(FIRST, answers), folder / "project")
    answers_after = answers | dict(scenario.answers_at_update)
    old, new = releases.render(FIRST, answers), releases.render(NEXT, answers_after)
    files = len(tree(project.folder))
    started = time.perf_counter()
    outcome = update_and_compare(project, old, new, scenario.answers_at_update)
    return Row(scenario, outcome, files, time.perf_counter() - started)


def pairs(folder: Path) -> Iterator[Releases]:
    """Make the pairs of an older and a newer version: this and the next, each earlier and this."""
    yield this_and_next(folder / "next")
    for earlier in spread(earlier_versions()):
        yield earlier_and_this(folder / earlier, earlier)


def spread(versions: list[str], most: int = 3) -> list[str]:
    """Choose a few of many versions: the oldest, the newest, and what is between them."""
    if len(versions) <= most:
        return versions
    return [versions[round(i * (len(versions) - 1) / (most - 1))] for i in range(most)]


def main() -> int:
    """Print a table for each pair; the exit code is 1 where a scenario broke a promise."""
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, releases in enumerate(pairs(Path(folder) / "releases")):
            print(f"\n{releases.name}, Copier {version('copier')}\n{COLUMNS.format(*HEADER)}")
            for scenario in SCENARIOS if FULL or number == 0 else IMPORTANT:
                broken += not kept(scenario, releases, Path(folder) / str(number) / scenario.name)
    print(f"\nscenarios that broke a promise: {broken}")
    return int(broken > 0)


def kept(scenario: Scenario, releases: Releases, folder: Path) -> bool:
    """Print a row, and what is wrong with it; tell whether nothing is."""
    try:
        row = run(scenario, releases, folder)
    except DOES_NOT_APPLY as missing:
        print(f"{scenario.name:44} does not apply: {missing}", flush=True)
        return True
    print(row, *row.outcome.problems(), sep="\n    ", flush=True)
    return not row.outcome.problems()


if __name__ == "__main__":
    sys.exit(main())
