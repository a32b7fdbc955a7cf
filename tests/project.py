"""A rendered service in a git repository, as its team sees it, and what an update did to it."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import copier
import yaml
from copier.errors import CopierError

from tests.repository import NEXT, commit, git

Answers = Mapping[str, str | bool]
ANSWERS_FILE = ".copier-answers.yml"
# What tools leave behind; none of it is rendered or a team's.
SCRATCH = {".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__"}
MARKER = re.compile(rb"^(<<<<<<<|>>>>>>>) ", re.MULTILINE)


def render(
    source: Path | str, folder: Path, answers: Answers | None = None, ref: str | None = None
) -> Path:
    """Render a service, trusting the template with nothing."""
    copier.run_copy(
        str(source),
        folder,
        data=dict(answers or {}),
        vcs_ref=ref,
        defaults=True,
        quiet=True,
        unsafe=False,
    )
    return folder


def update(folder: Path, answers: Answers | None = None, answers_file: str | None = None) -> None:
    """Run `copier update` as it is run from a shell, trusting the template with nothing."""
    copier.run_update(
        folder,
        data=dict(answers or {}),
        answers_file=answers_file,
        defaults=True,
        overwrite=True,
        quiet=True,
        unsafe=False,
    )


@dataclass
class Project:
    """A service's folder in the git repository that holds it, not always at its root."""

    folder: Path
    repository: Path
    answers_file: str = ANSWERS_FILE

    @property
    def package(self) -> Path:
        """The folder of the service's own code."""
        return min(self.folder.glob("src/*/main.py")).parent

    @property
    def answers(self) -> dict[str, str | bool]:
        """What the template recorded about this service."""
        recorded = yaml.safe_load(self.read(self.answers_file))
        assert isinstance(recorded, dict)
        return recorded

    def path(self, name: str) -> Path:
        """Find a file; `@` stands for the folder of the service's own code."""
        return self.package / name[2:] if name.startswith("@/") else self.folder / name

    def read(self, name: str) -> str:
        """Read a file with its line endings as they are."""
        with self.path(name).open(encoding="utf-8", newline="") as file:
            return file.read()

    def write(self, name: str, text: str) -> None:
        """Write a file, and its folders where they are missing."""
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        with self.path(name).open("w", encoding="utf-8", newline="") as file:
            file.write(text)

    def append(self, name: str, text: str) -> None:
        """Add lines at the end of a file."""
        self.write(name, self.read(name) + text)

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace a text that must be there."""
        text = self.read(name)
        if old not in text:
            raise LookupError(f"{name} does not hold {old!r}")
        self.write(name, text.replace(old, new))

    def delete(self, *names: str) -> None:
        """Delete files and folders, those that are not there excepted."""
        for path in map(self.path, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def files(self) -> Iterator[str]:
        """Name every file that a team may edit, the chassis's excepted."""
        for name in tree(self.folder):
            if not name.startswith("chassis/") and name != self.answers_file:
                yield name

    def update(self, answers: Answers | None = None) -> None:
        """Update to the newest release."""
        update(self.folder, answers, self.answers_file)

    def forget_history(self) -> None:
        """Begin a repository without a commit."""
        shutil.rmtree(self.repository / ".git")
        git(self.repository, "init", "--quiet")

    def commit(self, message: str) -> None:
        """Commit the whole repository."""
        commit(self.repository, message)


def create_project(rendered: Path, repository: Path, subfolder: str = ".") -> Project:
    """Put a copy of a render under git and commit it."""
    folder = repository / subfolder
    shutil.copytree(rendered, folder)
    git(repository, "init", "--quiet")
    commit(repository, "Render the service")
    return Project(folder=folder, repository=repository)


def tree(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder but what tools leave behind; the first byte is its mode."""
    return {
        path.relative_to(folder).as_posix(): _mode(path) + path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not SCRATCH.intersection(path.relative_to(folder).parts)
    }


def _mode(path: Path) -> bytes:
    return b"x" if path.stat().st_mode & 0o100 else b"-"


@dataclass
class Outcome:
    """What an update did, in the terms of the promise it has to keep."""

    error: str | None
    conflicts: list[str]
    changed: list[str]
    back: list[str]
    lost: list[str]
    chassis: list[str]

    def problems(self) -> list[str]:
        """Say every broken promise; an empty list is a clean update."""
        promises = {
            "conflict": self.conflicts,
            "user's file changed": self.changed,
            "user's file came back or appeared": self.back,
            "user's file lost": self.lost,
            "chassis is not the release's": self.chassis,
        }
        broken = [f"{what}: {', '.join(names)}" for what, names in promises.items() if names]
        return broken if self.error is None else [f"copier stopped: {self.error}", *broken]


def update_and_compare(
    project: Project, old: Path, new: Path, answers: Answers | None = None
) -> Outcome:
    """Update a committed project and hold it against the renders of both releases."""
    before = tree(project.repository)
    error = None
    try:
        project.update(answers)
    except (CopierError, ValueError) as refused:
        error = str(refused)
    if error is None and project.answers["_commit"] != NEXT:
        error = f"{project.answers_file} still records {project.answers['_commit']}"
    after = tree(project.repository)
    prefix = project.folder.relative_to(project.repository).as_posix().removeprefix(".")
    chassis = f"{prefix}/chassis/".removeprefix("/")
    record = f"{prefix}/{project.answers_file}".removeprefix("/")
    mine = {name for name in before if not name.startswith(chassis) and name != record}
    others = {name for name in after if not name.startswith(chassis) and name != record}
    return Outcome(
        error=error,
        conflicts=[*_unmerged(project), *_leftovers(after)],
        changed=sorted(name for name in mine & others if before[name] != after[name]),
        back=sorted(others - mine),
        lost=sorted(mine - others),
        chassis=_chassis_differences(
            _below(before, chassis),
            _below(after, chassis),
            tree(old / "chassis"),
            tree(new / "chassis"),
        ),
    )


def _unmerged(project: Project) -> list[str]:
    listed = git(project.repository, "ls-files", "--unmerged", "-z")
    return sorted({entry.split("\t")[1] for entry in listed.split("\0") if entry})


def _leftovers(after: dict[str, bytes]) -> list[str]:
    return [
        name
        for name, content in after.items()
        if name.endswith((".rej", ".orig")) or MARKER.search(content[1:])
    ]


def _below(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name.removeprefix(folder): files[name] for name in files if name.startswith(folder)}


def _chassis_differences(
    before: dict[str, bytes], after: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes]
) -> list[str]:
    added_by_hand = {name: before[name] for name in before.keys() - old.keys() - new.keys()}
    wanted = new | added_by_hand
    return sorted(
        name for name in wanted.keys() | after.keys() if wanted.get(name) != after.get(name)
    )
