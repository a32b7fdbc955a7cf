"""Releases of the template in one repository, and their renders, made once for a test run."""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import manifest
from tests.next_release import release_next
from tests.project import Answers, render
from tests.repository import (
    FIRST,
    NEXT,
    TemplateRepository,
    copy_version,
    copy_work_tree,
    create_repository,
)

Change = Callable[[TemplateRepository], None]
# Of the chassis a file or two of each kind, and those that tests name; all of the team's half.
KEPT = re.compile(
    r"^(?!chassis/)|^chassis/([^/]+$|tools/|docker/|docs/(README|updating))"
    r"|chassis/src/chassis/((db/)?__init__|app|settings|py[.]typed|db/sessions|.*\bsecrets)"
    r"|chassis/tests/(conftest|test_chassis_app|test_chassis_db_base)"
)


def once(target: Path, make: Callable[[Path], object]) -> Path:
    """Make a folder once for all the workers of a test run; the others wait for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f"{target.name}.made")
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(target, ignore_errors=True)
            make(target)
            made.touch()
    return target


@dataclass(frozen=True)
class Releases:
    """A repository with a release or two, and a folder for what is rendered from them."""

    name: str
    folder: Path

    @property
    def repository(self) -> TemplateRepository:
        """The repository that holds them."""
        return TemplateRepository(self.folder / "template")

    def render(self, tag: str, answers: Answers) -> Path:
        """Render a release with some answers, for reading and copying only."""
        key = hashlib.sha256(json.dumps([tag, dict(answers)], sort_keys=True).encode())
        return once(
            self.folder / key.hexdigest()[:12],
            lambda folder: render(self.repository.path, folder, answers, ref=tag),
        )


def this_one(folder: Path) -> Releases:
    """Release the work tree."""

    def make(path: Path) -> None:
        repository = create_repository(path)
        copy_work_tree(path)
        repository.release(FIRST)

    return _create(folder, "this", make)


def this_and_next(folder: Path, change: Change | None = None) -> Releases:
    """Release the work tree, changed or not, then a made-up next release."""

    def make(path: Path) -> None:
        repository = create_repository(path)
        copy_work_tree(path)
        if change is not None:
            change(repository)
        repository.release(FIRST)
        release_next(repository, NEXT)

    return _create(folder, "this to the next", make)


def keep_few(repository: TemplateRepository) -> None:
    """Leave a few files: Copier takes its time for each, three times in an update."""
    repository.clear(but=("copier.yml", "template"))
    for path in sorted(repository.template.rglob("*")):
        if path.is_file() and not KEPT.search(path.relative_to(repository.template).as_posix()):
            path.unlink()
    manifest.write(repository.template / "chassis")


def earlier_and_this(folder: Path, version: str) -> Releases:
    """Release an earlier version of this repository, then the work tree."""

    def make(path: Path) -> None:
        repository = create_repository(path)
        copy_version(version, path)
        repository.release(FIRST)
        repository.clear()
        copy_work_tree(path)
        repository.release(NEXT)

    return _create(folder, f"{version} to this", make)


def _create(folder: Path, name: str, make: Callable[[Path], None]) -> Releases:
    once(folder / "template", make)
    return Releases(name, folder)
