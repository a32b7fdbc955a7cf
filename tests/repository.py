"""A throw-away git repository of the template, made of the work tree or of a commit."""

import shutil
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST = "v1.0.0"
NEXT = "v1.1.0"


def git(folder: Path, *arguments: str, given: str | None = None) -> str:
    """Run git in a folder, on a text if one is given, and return what it prints."""
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=folder, input=given, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} in {folder}: {done.stderr}")
    return done.stdout


def commit(folder: Path, message: str) -> None:
    """Commit everything in a folder, ignored files excepted, as the only files there are."""
    git(folder, "add", "--all", ".")
    git(folder, "commit", "--quiet", "--allow-empty", "--no-verify", "--message", message)


@dataclass(frozen=True)
class TemplateRepository:
    """A git repository that services can be rendered from."""

    path: Path

    @property
    def template(self) -> Path:
        """The folder that is rendered."""
        return self.path / "template"

    def release(self, tag: str) -> None:
        """Commit the work tree and tag it, as a release does."""
        commit(self.path, f"Release {tag}")
        git(self.path, "tag", "--annotate", "--message", tag, tag)
        # Copier clones the repository several times in an update: one file instead of hundreds.
        git(self.path, "repack", "-a", "-d", "--quiet")

    def clear(self, but: Collection[str] = ()) -> None:
        """Remove every file but git's own, and but those of some names."""
        for old in self.path.iterdir():
            if old.name not in (".git", *but):
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def create_repository(path: Path) -> TemplateRepository:
    """Create an empty repository."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet")
    return TemplateRepository(path)


def copy_work_tree(destination: Path) -> Path:
    """Copy the files that a commit of the work tree would hold."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(listed.split("\0")) - {""}):
        if (ROOT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, destination / name, follow_symlinks=False)
    return destination


def copy_version(version: str, destination: Path) -> None:
    """Copy the files of a tag or commit of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        git(ROOT, "clone", "--quiet", "--no-checkout", str(ROOT), folder)
        git(Path(folder), f"--work-tree={destination}", "checkout", "--quiet", version, "--", ".")


def earlier_versions() -> list[str]:
    """Name what a service may have been rendered from, oldest first: release tags, else commits.

    There is none in a shallow clone of one commit. The work tree itself is not an earlier version.
    """
    tags = git(ROOT, "tag", "--list", "--sort=creatordate", "v*").split()
    history = [
        "log",
        "--skip=1",
        "--reverse",
        "--format=%h",
        "--all",
        "--",
        "template",
        "copier.yml",
    ]
    return with_what_a_render_needs(tags or git(ROOT, *history).split())


def with_what_a_render_needs(versions: list[str]) -> list[str]:
    """Leave out the versions without questions or without a template."""
    asked = "".join(f"{version}:copier.yml\n{version}:template\n" for version in versions)
    found = git(ROOT, "cat-file", "--batch-check", given=asked).splitlines()
    pairs = zip(versions, found[::2], found[1::2], strict=True)
    return [version for version, *pair in pairs if not any(map(is_missing, pair))]


def is_missing(line: str) -> bool:
    """Tell whether git has no such object."""
    return line.endswith(" missing")
