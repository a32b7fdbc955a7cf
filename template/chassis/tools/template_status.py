"""Compare chassis/ with its release (`status`), and the service with a newer one (`diff`).

Run by itself, as `python chassis/tools/template_status.py status`, it needs git and, for `diff`,
Copier; a chassis that can't be imported is examined too. It exits with 0 if chassis/ is as it was
rendered, with 1 if something differs, with 2 if it can't tell.
"""

import argparse
import importlib.util
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from template_project import (
    MANIFEST,
    Project,
    StatusError,
    find_changes,
    find_copier,
    hash_file,
    hide_credentials,
    read_project,
    run,
)
from template_releases import Releases, find_releases

# Where an edit belongs instead, by what the path begins with; the first that fits.
PLACES = {
    "src/chassis/app.py": "middleware, handlers and start-up clients: main.py",
    "src/chassis/commands/cli.py": "commands: run.add_command(…) in cli.py",
    "src/chassis/db/": "behaviour of the database: the APP_DATABASE_* variables in .env.example",
    "src/chassis/http/error_handlers.py": "another answer to an error: a handler in main.py",
    "src/chassis/http/problems.py": "another answer to an error: a handler in main.py",
    "src/chassis/http/health.py": "other probes: a router of the service",
    "src/chassis/settings.py": "settings: fields of the class in settings.py",
    "src/chassis/testing": "fixtures: tests/conftest.py",
    "src/chassis/": "code: the service's package in src/",
    "docker/": "steps of the container: the Dockerfile",
    "tests/": "tests: the service's tests/",
    "pyproject.toml": "dependencies and tools: the service's pyproject.toml",
    "docs/": "notes: the service's README.md",
    "": "the template: send the change there",
}


def main() -> int:
    """Run the command that was asked for, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["status", "diff"])
    parser.add_argument("-a", "--answers-file", help="Copier's answers file, if it was renamed")
    options = parser.parse_args()
    try:
        project = read_project(Path(__file__).absolute().parents[2], options.answers_file)
        return show_status(project) if options.command == "status" else show_diff(project)
    except (StatusError, OSError, UnicodeDecodeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def show_status(project: Project) -> int:
    """Print what differs from the release, and which release is the newest."""
    print(f"chassis {find_version(project)}, rendered from {project.version} of ", end="")
    print(hide_credentials(project.source))
    releases = find_releases(project)
    changes = [*describe_changes(project, releases)]
    findings = [*changes, *describe_git(project), *describe_installed(project)]
    print(*findings, f"newest release: {releases.sentence}", sep="\n")
    if releases.recorded not in (None, project.manifest):
        raise StatusError(
            f"chassis/ is not of {project.version}, which {project.answers_file} records: an "
            f"update did not reach it, or {MANIFEST} was edited. Render it again: "
            f"{restore_command(project)}"
        )
    if changes:
        print(f"to render it again, without the changes: {restore_command(project)}")
    if not findings:
        print("chassis/ is as it was rendered")
    return int(bool(findings))


def find_version(project: Project) -> str:
    """Return the chassis's own version, without importing it."""
    file = project.root / "chassis/src/chassis/__init__.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)
    return found[1] if found else "of no known version"


def restore_command(project: Project) -> str:
    """Return the command that renders chassis/ of the recorded version again, and nothing else."""
    name = project.answers_file
    renamed = "" if name == ".copier-answers.yml" else f"-a {name} "
    return (
        f"uvx copier recopy --defaults --overwrite {renamed}--vcs-ref {project.version} "
        f"-x '*' -x '!/chassis/**' -x '!/{name}'"
    )


def describe_changes(project: Project, releases: Releases) -> Iterator[str]:
    """Yield each edited, deleted and added file, where it belongs and what becomes of it."""
    for path, change in sorted(find_changes(project).items(), key=lambda item: item[::-1]):
        place = next(place for start, place in PLACES.items() if path.startswith(start))
        fate = "an update does not bring it back" if change == "deleted" else place
        yield f"{change:9}{path}\n         {fate}"
        if change == "edited":
            marked = b"\n<<<<<<< " in (project.root / "chassis" / path).read_bytes()
            fate = "it holds conflict markers" if marked else releases.predict_update(path)
            yield from [f"         {fate}"] if fate else []


def describe_git(project: Project) -> Iterator[str]:
    """Yield what git lacks, for which an update deletes the file, and committed Windows ends."""
    try:
        listed = run(["git", "ls-files", "--eol", "-z", "--", "chassis"], project.root).split("\0")
    except StatusError:
        return
    ends = {line.partition("\t")[2]: line for line in listed}
    names = [f"chassis/{path}" for path in (*project.manifest, MANIFEST)]
    missing = [name for name in names if name not in ends and (project.root / name).is_file()]
    ignored = find_ignored(project, missing)
    for rule, paths in ignored.items():
        yield f"ignored  {shorten_list(paths)}"
        yield f"         by {rule}: an update deletes what git ignores"
    untracked = sorted({*missing}.difference(*ignored.values()))
    if untracked and f"chassis/{MANIFEST}" in ends:
        yield f"unknown to git  {shorten_list(untracked)}\n         git add --all chassis"
    if windows := [name for name, line in ends.items() if line[:6] in ("i/crlf", "i/mixe")]:
        yield f"CRLF     {shorten_list(windows)}"
        yield "         in git, where an update conflicts: git add --renormalize chassis"


def find_ignored(project: Project, names: list[str]) -> dict[str, list[str]]:
    """Return the names that git ignores, by the rule that says so."""
    ask = ["git", "check-ignore", "-z", "--verbose", "--stdin"]
    fields = run(ask, project.root, (0, 1), "".join(f"{name}\0" for name in names)).split("\0")
    rules: dict[str, list[str]] = {}
    for file, line, pattern, name in zip(*(fields[i::4] for i in range(4)), strict=False):
        if not pattern.startswith("!"):
            rules.setdefault(f'{file}:{line} "{pattern}"', []).append(name)
    return rules


def shorten_list(names: list[str]) -> str:
    """Join some names, and count the rest."""
    shown = ", ".join(name.removeprefix("chassis/") for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def describe_installed(project: Project) -> Iterator[str]:
    """Yield whether the chassis that this Python imports is other code than the folder's."""
    spec = importlib.util.find_spec("chassis")
    if spec is None or spec.origin is None:
        return
    installed, source = Path(spec.origin).parent, project.root / "chassis/src/chassis"
    names = [path.relative_to(source) for path in source.rglob("*.py")]
    if any(hash_file(installed / name) != hash_file(source / name) for name in names):
        yield f"installed is other code, in {installed}"
        yield "         install this folder's: uv sync, or pip install ./chassis ."


def show_diff(project: Project) -> int:
    """Print what the newest release renders otherwise outside chassis/; change nothing."""
    command = find_copier()
    with tempfile.TemporaryDirectory(prefix="chassis-diff-") as name:
        folder = Path(name)
        (folder / "answers.yml").write_text(project.answers, encoding="utf-8")
        for target, version in {"recorded": ["--vcs-ref", project.version], "newest": []}.items():
            options = ["--quiet", "--defaults", "--data-file", f"{folder}/answers.yml", *version]
            paths = [project.source, f"{folder}/{target}"]
            run([*command, "copy", *options, *paths], project.root)
            shutil.rmtree(folder / target / "chassis", ignore_errors=True)
            (folder / target / ".copier-answers.yml").unlink(missing_ok=True)
        compare = ["git", "diff", "--no-index", "--no-color", "recorded", "newest"]
        print(run(compare, folder, accepted=(0, 1)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
