"""A service's checkout: its chassis/, its answers file, and what was changed by hand."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

MANIFEST = "MANIFEST.sha256"

_GIT_SECONDS, _COPIER_SECONDS = 20, 120
_RECORD = re.compile(r"^(_\w+): *(.+(?:\n[ \t].*)*)\n?", re.MULTILINE)


class StatusError(Exception):
    """The question can't be answered; the message says what is missing and how to mend it."""


@dataclass(frozen=True)
class Project:
    """What is known of a service: where it came from, and the digest of each file it came with."""

    root: Path
    answers_file: str
    answers: str
    source: str
    version: str
    manifest: dict[str, str]


def read_project(root: Path, answers_file: str | None = None) -> Project:
    """Read the answers file and the manifest. Raise StatusError outside of a service."""
    name = answers_file or next(_find_answers(root), None) or _explain_no_answers(root)
    if not (root / name).is_file():
        raise StatusError(f"there is no {name} beside chassis/")
    text = (root / name).read_text(encoding="utf-8")
    if "\n<<<<<<< " in text:
        raise StatusError(f"{name} holds conflict markers: keep the side with the newer _commit")
    known = {key: re.sub(r"\s*\n\s+", " ", value) for key, value in _RECORD.findall(text)}
    source, version = (known.get(key, "").strip(" '\"") for key in ("_src_path", "_commit"))
    manifest = root / "chassis" / MANIFEST
    if not manifest.is_file():
        raise StatusError(f"chassis/{MANIFEST} is missing: bring it back with git, or update")
    expected = parse_manifest(manifest.read_text(encoding="utf-8"))
    return Project(root, name, _RECORD.sub("", text), source, version, expected)


def find_changes(project: Project) -> dict[str, str]:
    """Return what was done to each file that differs from the manifest; line ends don't count."""
    chassis, expected = project.root / "chassis", project.manifest
    found = {path: hash_file(chassis / path) for path in _list_files(chassis)}
    changed = {path: "edited" for path in expected.keys() & found if expected[path] != found[path]}
    changed |= dict.fromkeys(expected.keys() - found, "deleted")
    return changed | dict.fromkeys(found.keys() - expected, "added")


def parse_manifest(text: str) -> dict[str, str]:
    """Return the digest of each path. Raise StatusError if the text is no manifest."""
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    if any(len(line) != 2 or len(line[0]) != 64 for line in lines):
        raise StatusError(f"chassis/{MANIFEST} is damaged: take it from the release again")
    return {path: value for value, path in lines}


def hash_file(file: Path) -> str:
    """Hash a file as if its lines ended with LF; return nothing for one that is missing."""
    if not file.is_file():
        return ""
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def run(
    command: Sequence[str], folder: Path, accepted: Sequence[int] = (0,), given: str = ""
) -> str:
    """Return what a command prints. Raise StatusError if it fails."""
    program = Path(command[0]).name
    seconds = _GIT_SECONDS if program == "git" else _COPIER_SECONDS
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            input=given,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StatusError(f"{program} gave no answer in {seconds} s") from error
    except OSError as error:
        raise StatusError(f"{program} can't be run: {type(error).__name__}") from error
    if done.returncode not in accepted:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StatusError(f"{program} failed: {hide_credentials(reason)}")
    return done.stdout


def find_copier() -> list[str]:
    """Return the command that runs Copier. Raise StatusError if there is none."""
    found = shutil.which("copier") or shutil.which("uvx")
    if found is None:
        raise StatusError("neither copier nor uvx is on the PATH: install uv, or Copier by pip")
    return [found] if Path(found).stem == "copier" else [found, "copier"]


def hide_credentials(text: str) -> str:
    """Return a text without the user and password of any URL in it."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _find_answers(folder: Path) -> Iterator[str]:
    """Yield this template's answers files: another template may have its own beside them."""
    for file in sorted(folder.glob(".copier-answers*.y*ml")):
        if "\ninclude_example:" in file.read_text(encoding="utf-8"):
            yield file.name


def _explain_no_answers(root: Path) -> str:
    for above in root.parents:
        for name in _find_answers(above):
            raise StatusError(
                f"{above / name} is not beside {root / 'chassis'}: Copier updates chassis/ only "
                "there, and records the new version all the same. Move the folder back"
            )
    raise StatusError(
        "there is no .copier-answers.yml beside chassis/: run this in the service's checkout, "
        "or name the file by --answers-file"
    )


def _list_files(chassis: Path) -> Iterator[str]:
    """Yield the files but the manifest and what tools make, which chassis/.gitignore names."""
    rules = chassis / ".gitignore"
    lines = rules.read_text(encoding="utf-8").splitlines() if rules.is_file() else []
    patterns = [line.strip("/") for line in lines if line and line[0] not in "#!"]
    for path in chassis.rglob("*"):
        parts = path.relative_to(chassis).parts
        if path.is_file() and not any(fnmatch(part, one) for part in parts for one in patterns):
            yield from () if parts == (MANIFEST,) else ("/".join(parts),)
