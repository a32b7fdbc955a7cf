"""The template's releases, in the order of PEP 440 as Copier has it, and the files they hold."""

import math
import re
import tempfile
from dataclasses import dataclass

from template_project import MANIFEST, Project, StatusError, hide_credentials, parse_manifest, run

_SHORT_FORMS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/", "git+": ""}
_VERSION = re.compile(
    r"v?(?:(\d+)!)?(\d+(?:\.\d+)*)"
    r"(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?(\d*))?"
    r"(?:-(\d+)|[-_.]?(post|rev|r)[-_.]?(\d*))?(?:[-_.]?(dev)[-_.]?(\d*))?(?:\+([a-z0-9._-]+))?"
)


@dataclass(frozen=True)
class Releases:
    """A sentence on the newest release, and the manifests of the recorded and the next version."""

    sentence: str
    next: str = ""
    recorded: dict[str, str] | None = None
    following: dict[str, str] | None = None

    def predict_update(self, path: str) -> str:
        """Return what an update does to a file that was changed by hand."""
        if self.following is None:
            return ""
        if path not in self.following:
            return f"{self.next} has no such file: an update drops the edit without a conflict"
        if self.recorded is None:
            return ""
        if self.following[path] == self.recorded.get(path):
            return f"{self.next} leaves the file as it is: an update keeps the edit"
        return f"{self.next} changes the file too: the edit may conflict"


def find_releases(project: Project) -> Releases:
    """Ask the template for its releases; one that can't be reached is a sentence, no error."""
    address = project.source
    for short, long in _SHORT_FORMS.items():
        address = long + address.removeprefix(short) if address.startswith(short) else address
    try:
        listed = run(["git", "ls-remote", "--tags", "--refs", "--", address], project.root)
    except StatusError as error:
        source = hide_credentials(project.source)
        return Releases(f"unknown, as the template at {source} can't be reached ({error})")
    tags = re.findall(r"refs/tags/(.+)", listed)
    sentence, following = compare_versions(project.version, tags)
    recorded = project.version if project.version in tags else ""
    wanted = [recorded, following]
    manifests = (fetch_manifest(project, address, tag) if tag else None for tag in wanted)
    return Releases(sentence, following, *manifests)


def compare_versions(version: str, tags: list[str]) -> tuple[str, str]:
    """Return a sentence on the newest release, and its tag if `copier update` takes it."""
    releases = [tag for tag in tags if version_key(tag) and not is_prerelease(tag)]
    newest = max(releases, key=version_key, default="")
    base = re.sub(r"-\d+-g[0-9a-f]+$", "", version)
    if not newest:
        return "the template has none yet", ""
    if base not in tags and not re.fullmatch("[0-9a-f]{7,40}", base):
        return f"{newest}; {base} is no longer in the template, so no update can start", ""
    if base not in tags or version_key(base) < version_key(newest):
        return f"{newest}; `copier update` takes it", newest
    return ("this one" if version == newest else f"{newest}; {version} is newer"), ""


def fetch_manifest(project: Project, address: str, tag: str) -> dict[str, str] | None:
    """Return the manifest of the chassis in a release, None if it can't be had."""
    with tempfile.TemporaryDirectory(prefix="chassis-status-") as folder:
        git = ["git", f"--git-dir={folder}"]
        try:
            run([*git, "init", "--quiet", "--bare"], project.root)
            fetch = ["fetch", "--quiet", "--depth=1", "--", address, f"refs/tags/{tag}"]
            run([*git, *fetch], project.root)
            names = run([*git, "ls-tree", "-r", "--name-only", "FETCH_HEAD"], project.root)
            path = next(
                name for name in names.splitlines() if name.endswith(f"/chassis/{MANIFEST}")
            )
            return parse_manifest(run([*git, "show", f"FETCH_HEAD:{path}"], project.root))
        except (StatusError, StopIteration):
            return None


def is_prerelease(tag: str) -> bool:
    """Return whether Copier takes a tag with `--prereleases` only."""
    found = _VERSION.fullmatch(tag.lower())
    return found is not None and bool(found[3] or found[8])


def version_key(tag: str) -> tuple[object, ...]:
    """Return a key that sorts tags as PEP 440 does; nothing for a tag that is no version."""
    found = _VERSION.fullmatch(tag.lower())
    if found is None:
        return ()
    epoch, numbers, stage, number, dash, post, post_number, dev, dev_number, local = found.groups()
    after = int(dash or post_number or 0) if dash or post else -1
    # Sorted as words; "c", "pre" and "preview" are other names of "rc".
    word = stage.replace("pre", "rc")[0] if stage else "" if dev and after < 0 else "released"
    parts = re.split("[-_.]", local or "")
    return (
        int(epoch or 0),
        [int(part) for part in re.sub(r"(\.0+)+$", "", numbers).split(".")],
        ("r" if word == "c" else word, int(number or 0)),
        after,
        int(dev_number or 0) if dev else math.inf,
        [(part.isdigit(), int(part) if part.isdigit() else part) for part in parts],
    )
