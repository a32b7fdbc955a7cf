"""Which revisions are new: no database but a developer's has run them."""

import subprocess
from collections.abc import Sequence
from configparser import RawConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.util import CommandError

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

_MAIN_BRANCHES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")


def find_new_revisions(scripts: "ScriptDirectory", after: str | None) -> set[str] | None:
    """Return the revisions after the one named, else those that Git's main branch does not have.

    It is named by `after` or in `alembic.ini`. Return None if nothing tells.
    Raise alembic.util.CommandError for a name that is no revision.
    """
    revisions = list(scripts.walk_revisions())
    named = after or _read_ini()
    if named is None:
        return _ask_git(Path(scripts.versions), revisions)
    try:
        scripts.get_revision(named)
    except CommandError as error:
        where = "--lint-after" if after else "alembic.ini, lint_after"
        raise CommandError(f"{where}: {error}; name a revision, or base for all") from error
    older = {one.revision for one in scripts.iterate_revisions(named, "base")}
    return {one.revision for one in revisions} - older


def describe_refusal(folder: Path) -> str:
    """Return why Git says nothing of a folder, in parentheses; nothing if it does."""
    try:
        ended = _call_git(folder, "rev-parse", "--git-dir")
    except OSError:
        return " (it is not installed)"
    return f" ({ended.stderr.partition(chr(10))[0]})" if ended.returncode else ""


def _read_ini() -> str | None:
    parser = RawConfigParser()
    parser.read("alembic.ini", encoding="utf-8")
    return parser.get("alembic", "lint_after", fallback=None) or None


def _ask_git(folder: Path, revisions: "Sequence[Script]") -> set[str] | None:
    main = next((name for name in _MAIN_BRANCHES if _run_git(folder, "rev-parse", name)), "")
    fork = _run_git(folder, "merge-base", main, "HEAD")
    if fork and fork == _run_git(folder, "rev-parse", "HEAD"):
        # On the main branch: what its last commit brought.
        fork = _run_git(folder, "rev-parse", "HEAD^1") or _find_first_commit(folder, fork)
    if not fork:
        return None
    tree = ["ls-tree", "-rz", "--name-only"]
    # In the folder, or wherever it was before it moved.
    known = _run_git(folder, *tree, fork, "./") or _run_git(folder, *tree, "--full-tree", fork)
    names = {Path(name).name for name in (known or "").split("\0")}
    return {one.revision for one in revisions if Path(one.path).name not in names}


def _find_first_commit(folder: Path, commit: str) -> str | None:
    """Return a commit without a parent; None in a shallow clone, which only lacks the parent."""
    is_shallow = _run_git(folder, "rev-parse", "--is-shallow-repository") == "true"
    return None if is_shallow else commit


def _run_git(folder: Path, *arguments: str) -> str | None:
    """Return what Git prints, None if it fails or is not installed."""
    try:
        ended = _call_git(folder, *arguments)
    except OSError:
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


def _call_git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
