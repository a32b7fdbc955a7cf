"""Check what is to be released, and tag it: `python -m tests.release v1.2.3`."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from packaging.version import InvalidVersion, Version

from tests import manifest
from tests.repository import ROOT, git

CHASSIS = "template/chassis"


def main(tag: str) -> int:
    """Tag the commit if nothing speaks against it; return the exit code."""
    problems = [*find_problems(ROOT, tag), *find_obstacles(ROOT, tag)]
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    git(ROOT, "tag", "--annotate", "--message", tag, tag)
    print(f"{tag} is tagged; to publish it: git push origin {tag}")
    return 0


def find_problems(root: Path, tag: str) -> Iterator[str]:
    """Yield what in the work tree does not agree with the tag, or breaks an update to it."""
    chassis = root / CHASSIS
    code = (chassis / "src/chassis/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"', code, re.MULTILINE)
    version = found[1] if found else ""
    if not is_version(tag) or not is_version(version) or Version(tag) != Version(version):
        yield f"the tag is {tag}, chassis.__version__ is {version}: they must be one version"
    sections = re.findall(r"^## (.+)", (chassis / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    newest = sections[0].split()[0].strip("[]:") if sections else ""
    if not is_version(newest) or not is_version(tag) or Version(newest) != Version(tag):
        yield f"the first section of the changelog is {newest or 'missing'}, not {tag}"
    if (chassis / manifest.NAME).read_text("utf-8") != manifest.manifest(chassis):
        yield f"{manifest.NAME} is older than the files: run python -m tests.manifest"
    yield from find_moves(root, list_tags(root))


def find_obstacles(root: Path, tag: str) -> Iterator[str]:
    """Yield why the commit can't be tagged."""
    if git(root, "status", "--porcelain"):
        yield "something is not committed"
    if tag in list_tags(root):
        yield f"{tag} is there already, and a tag is never moved: services record it"
    if not tag.startswith("v"):
        yield f"tags begin with a v: v{tag}"


def find_moves(root: Path, versions: Iterable[str]) -> Iterator[str]:
    """Yield paths of the chassis that an earlier version has as the other of file and folder.

    Copier stops half-way there. A name that differs in its case only is deleted by an update
    where the file system takes both for one.
    """
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", CHASSIS)
    new = {name for name in listed.split("\0") if (root / name).is_file()}
    for version in versions:
        old = set(git(root, "ls-tree", "-r", "-z", "--name-only", version, CHASSIS).split("\0"))
        for path in sorted((old & _folders(new)) | (new & _folders(old))):
            yield f"{path} is a file and a folder, in {version} and now"
        for path in sorted({name.casefold() for name in old - new} & {*map(str.casefold, new)}):
            yield f"{path} is written otherwise in {version}"


def list_tags(root: Path) -> list[str]:
    """Name the releases."""
    return git(root, "tag", "--list", "v*").split()


def is_version(text: str) -> bool:
    """Tell whether a text is a version as Copier reads it."""
    try:
        return bool(Version(text))
    except InvalidVersion:
        return False


def _folders(names: Iterable[str]) -> set[str]:
    return {str(folder) for name in names for folder in PurePosixPath(name).parents}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
