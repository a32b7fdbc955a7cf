"""Where this chassis came from: its release, what was changed by hand, and what is newer."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ANSWERS = ".copier-answers.yml"
MANIFEST = "MANIFEST.sha256"

_TIMEOUT_SECONDS = 20
_MADE_BY_TOOLS = frozenset(
    {
        "__pycache__",
        ".venv",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".DS_Store",
        "uv.lock",
        MANIFEST,
    }
)
# Where an edit belongs instead, by what the path begins with; the first that fits.
_PLACES = {
    "src/chassis/app.py": "middleware, handlers and start-up clients: main.py",
    "src/chassis/cli.py": "commands: run.add_command(…) in cli.py",
    "src/chassis/db/": "behaviour of the database: the APP_DATABASE_* variables in .env.example",
    "src/chassis/errors.py": "another answer to an error: an exception handler in main.py",
    "src/chassis/health.py": "other probes: a router of the service",
    "src/chassis/settings.py": "settings: fields of the class in settings.py",
    "src/chassis/testing": "fixtures: tests/conftest.py",
    "src/chassis/": "code: the service's package in src/",
    "docker/": "steps of the container: the Dockerfile",
    "tests/": "tests: the service's tests/",
    "pyproject.toml": "dependencies and tools: the service's pyproject.toml",
    "docs/": "notes: the service's README.md",
    "": "the template: send the change there",
}
_SHORT_FORMS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}


class OriginError(Exception):
    """The question can't be answered here; the message says what is missing."""


@dataclass(frozen=True)
class Origin:
    """A rendered project: its folder, and the template's address and version in its answers."""

    root: Path
    source: str
    version: str


@dataclass(frozen=True)
class Changes:
    """The files of the chassis that differ from its release, by what was done to them."""

    edited: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.edited or self.deleted or self.added)


def find_origin(start: Path) -> Origin:
    """Find the project that a folder is in. Raises OriginError outside of one."""
    for folder in (start, *start.parents):
        answers = folder / ANSWERS
        if answers.is_file():
            known = _read_answers(answers)
            return Origin(folder, known.get("_src_path", ""), known.get("_commit", ""))
    raise OriginError(f"there is no {ANSWERS} here or above: run this in the service's checkout")


def find_changes(origin: Origin) -> Changes:
    """Compare the chassis with its manifest; line endings don't count."""
    folder = origin.root / "chassis"
    expected = _read_manifest(folder / MANIFEST)
    found = {path: digest(folder / path) for path in _files(folder)}
    return Changes(
        edited=sorted(path for path in expected.keys() & found if expected[path] != found[path]),
        deleted=sorted(expected.keys() - found),
        added=sorted(found.keys() - expected),
    )


def place_for(path: str) -> str:
    """Say where a change of a chassis file belongs instead."""
    return next(place for start, place in _PLACES.items() if path.startswith(start))


def digest(file: Path) -> str:
    """Hash a file as if its lines ended with LF."""
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def newest_release(origin: Origin) -> str | None:
    """Give the template's newest release tag, None where it has none.

    Raises OriginError where the template can't be reached.
    """
    listed = _run(["git", "ls-remote", "--tags", "--refs", _address(origin.source)], origin.root)
    tags = [line.rpartition("refs/tags/")[2] for line in listed.splitlines()]
    return max(filter(_is_release, tags), key=release_number, default=None)


def release_number(tag: str) -> tuple[int, ...]:
    """Give the numbers of a release tag, to compare it with others."""
    return tuple(int(number) for number in re.findall(r"\d+", tag))


def diff_with_newest(origin: Origin) -> str:
    """Render the recorded and the newest release, and give the diff of everything but the chassis.

    Changes nothing in the project. Raises OriginError where Copier is not at hand or fails.
    """
    with tempfile.TemporaryDirectory(prefix="chassis-diff-") as name:
        folder = Path(name)
        answers = folder / "answers.yml"
        answers.write_text(_own_answers(origin.root / ANSWERS), encoding="utf-8")
        _render(origin, folder / "recorded", answers, ["--vcs-ref", origin.version])
        _render(origin, folder / "newest", answers, [])
        for rendered in ("recorded", "newest"):
            shutil.rmtree(folder / rendered / "chassis", ignore_errors=True)
            (folder / rendered / ANSWERS).unlink(missing_ok=True)
        command = ["git", "diff", "--no-index", "--no-color", "recorded", "newest"]
        return _run(command, folder, accepted=(0, 1))


def _render(origin: Origin, target: Path, answers: Path, options: Sequence[str]) -> None:
    copy = ["copy", "--quiet", "--defaults", "--data-file", str(answers), *options]
    _run([*_copier(), *copy, origin.source, str(target)], origin.root)


def _copier() -> list[str]:
    if copier := shutil.which("copier"):
        return [copier]
    if uvx := shutil.which("uvx"):
        return [uvx, "copier"]
    raise OriginError("neither copier nor uvx is on the PATH: install uv, or `pip install copier`")


def _run(command: Sequence[str], folder: Path, accepted: tuple[int, ...] = (0,)) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS * (1 if command[0] == "git" else 6),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OriginError(
            f"{Path(command[0]).name} can't be run: {type(error).__name__}"
        ) from error
    if done.returncode not in accepted:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise OriginError(f"{Path(command[0]).name} failed: {reason}")
    return done.stdout


def _address(source: str) -> str:
    for short, address in _SHORT_FORMS.items():
        if source.startswith(short):
            return address + source.removeprefix(short)
    return source.removeprefix("git+")


def _is_release(tag: str) -> bool:
    return re.fullmatch(r"v?\d+(\.\d+)*", tag) is not None


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        made = _MADE_BY_TOOLS.intersection(relative.parts) or path.suffix == ".pyc"
        if path.is_file() and not made:
            yield relative.as_posix()


def _read_manifest(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise OriginError(f"chassis/{MANIFEST} is missing: bring it back with git, or update")
    lines = (line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())
    return {path: digest for digest, path in lines}


def _read_answers(file: Path) -> dict[str, str]:
    pairs = re.findall(r"^(_\w+): *(.+?) *$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: value.strip("'\"") for name, value in pairs}


def _own_answers(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("_"))
