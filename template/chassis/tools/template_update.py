"""Propose the template's newest release as a pull request: .github/workflows/template.yml runs it.

It needs git, Copier or uvx, and gh with a token. It pushes nothing and exits with 1 if the update
conflicts, or if its branch holds commits of somebody else.
"""

import argparse
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from template_project import (
    Project,
    StatusError,
    find_changes,
    find_copier,
    hide_credentials,
    read_project,
    run,
)
from template_releases import version_key

TRAILER = "Template-Release"
# GitHub takes 65,536 characters.
LONGEST_TEXT = 60_000


@dataclass(frozen=True)
class Branch:
    """The pull request's branch at origin, and the pull requests that it ever had."""

    name: str
    base: str
    tip: str
    pulls: list[dict[str, str]]

    def has_pull(self, state: str, tip: str = "") -> bool:
        """Return whether a pull request has this state, and this commit if one is named."""
        return any(
            pull["state"] == state and tip in ("", pull["headRefOid"]) for pull in self.pulls
        )


@dataclass(frozen=True)
class Update:
    """What `copier update` did: the service before and after, and what was known before."""

    old: Project
    new: Project
    status: str
    lost: list[str]
    paths: list[str]


def main() -> int:
    """Propose the newest release, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="the branch that pull requests go to")
    parser.add_argument("--branch", default="template-update", help="the pull request's branch")
    parser.add_argument("-a", "--answers-file", help="Copier's answers file, if it was renamed")
    options = parser.parse_args()
    try:
        root = Path(__file__).absolute().parents[2]
        branch = find_branch(root, options.branch, options.base)
        print(propose_update(root, options.answers_file, branch))
    except (StatusError, OSError, UnicodeDecodeError) as error:
        print("::error::" if "GITHUB_ACTIONS" in os.environ else "Error: ", end="", file=sys.stderr)
        print(error, file=sys.stderr)
        return 1
    return 0


def find_branch(root: Path, name: str, base: str) -> Branch:
    """Fetch origin, and ask for the branch's tip and pull requests."""
    run(["git", "fetch", "--quiet", "--prune", "origin"], root)
    find_tip = ["git", "for-each-ref", "--format=%(objectname)", f"refs/remotes/origin/{name}"]
    ask = ["gh", "pr", "list", "--head", name, "--state", "all", "--json", "state,headRefOid"]
    tip, pulls = run(find_tip, root).strip(), json.loads(run(ask, root))
    return Branch(name, f"origin/{base}", tip, pulls)


def propose_update(root: Path, answers_file: str | None, branch: Branch) -> str:
    """Update, push, open or edit the pull request; return a sentence on what was done."""
    run(["git", "switch", "--quiet", "--no-track", "-C", branch.name, branch.base], root)
    update = make_update(read_project(root, answers_file))
    if update is None:
        return "nothing is newer"
    release, others = update.new.version, find_commits_of_others(root, branch)
    if branch.tip and not find_differences(update, branch, update.paths):
        if any(branch.has_pull(state, branch.tip) for state in ("OPEN", "CLOSED", "MERGED")):
            return f"{release} is proposed already"
    elif others and not find_differences(update, branch, [update.new.answers_file]):
        return f"{release} is proposed already, with commits of others that stay: {others}"
    elif others:
        raise StatusError(
            f"{release} can't be proposed: {branch.name} holds commits of others ({others}). "
            f"Merge its pull request or delete the branch, then run this again"
        )
    else:
        lease = f"--force-with-lease=refs/heads/{branch.name}:{branch.tip}"
        run(["git", "push", "--quiet", lease, "origin", f"HEAD:refs/heads/{branch.name}"], root)
    write_pull(update, branch)
    return f"{release} is proposed"


def make_update(old: Project) -> Update | None:
    """Update and commit; return nothing if there is nothing newer."""
    root, name = old.root, old.answers_file
    status = read_status(old)
    edited = [path for path, change in find_changes(old).items() if change == "edited"]
    run([*find_copier(), "update", "--defaults", "--answers-file", name], root)
    refuse_conflicts(old)
    locked = run(["git", "ls-files", "--", "uv.lock"], root).split()
    paths = ["chassis", name, *locked]
    if not run(["git", "status", "--porcelain", "--", *paths], root):
        return None
    if locked:
        run(["uv", "lock"], root)
    new = read_project(root, name)
    run(["git", "add", "--all", "--", *paths], root)
    message = f"Update the template to {new.version}\n\n{TRAILER}: {new.version}"
    run(["git", "commit", "--quiet", "--message", message], root)
    read_status(new)
    lost = [path for path in edited if not (root / "chassis" / path).exists()]
    return Update(old, new, status, lost, paths)


def read_status(project: Project) -> str:
    """Return what chassis/ says of itself. Raise StatusError if it can't be compared."""
    script = project.root / "chassis/tools/template_status.py"
    command = [sys.executable, str(script), "status", "--answers-file", project.answers_file]
    try:
        return run(command, project.root, accepted=(0, 1))
    except StatusError as error:
        raise StatusError(str(error).partition("Error: ")[2] or str(error)) from error


def refuse_conflicts(project: Project) -> None:
    """Raise StatusError if the update left a conflict, for which Copier exits with 0."""
    paths = ["--", "chassis", project.answers_file]
    grep = ["git", "grep", "--untracked", "-l", "-E", "^(<<<<<<<|>>>>>>>) ", *paths]
    found = {
        *run(["git", "diff", "--name-only", "--relative", "--diff-filter=U"], project.root).split(),
        *run(grep, project.root, accepted=(0, 1)).split(),
        *run(["git", "ls-files", "--others", "--", "*.rej"], project.root).split(),
    }
    if found:
        raise StatusError(
            f"edited here and in the template: {', '.join(sorted(found))}. Nothing was pushed; "
            "run copier update by hand"
        )


def find_commits_of_others(root: Path, branch: Branch) -> str:
    """Name the branch's commits that this program did not make; those of a merged one are safe."""
    if not branch.tip or branch.has_pull("MERGED", branch.tip):
        return ""
    mine = run(["git", "log", "-1", "--format=%ce"], root).strip()
    form = f"--format=%(trailers:key={TRAILER},valueonly,separator=%x2C)%x09%ce%x09%h %cn"
    commits = run(["git", "log", form, f"{branch.base}..{branch.tip}"], root).splitlines()
    rows = [line.split("\t") for line in commits]
    return ", ".join(name for release, email, name in rows if not release or email != mine)


def find_differences(update: Update, branch: Branch, paths: list[str]) -> str:
    """Name the paths in which the branch at origin differs from this update."""
    return run(["git", "diff", "--name-only", "HEAD", branch.tip, "--", *paths], update.new.root)


def write_pull(update: Update, branch: Branch) -> None:
    """Open the pull request, or edit the open one."""
    title = ["--title", f"Update the template to {update.new.version}", "--body-file", "-"]
    if branch.has_pull("OPEN"):
        command = ["gh", "pr", "edit", branch.name, *title]
    else:
        base = branch.base.removeprefix("origin/")
        command = ["gh", "pr", "create", "--head", branch.name, "--base", base, *title]
    run(command, update.new.root, given=write_description(update))


def write_description(update: Update) -> str:
    """Write the pull request's text: the releases, what is lost, the changelog, the status."""
    old, new = update.old, update.new
    source = hide_credentials(new.source)
    lines = [f"From {old.version} to {new.version} of {source}, in {', '.join(update.paths)} only."]
    if update.lost:
        lines.append(f"**Edits are lost**: {new.version} has no file {', '.join(update.lost)}.")
    changelog = "".join(read_changelog(new.root, old.version)).strip()
    if len(changelog) > LONGEST_TEXT:
        changelog = f"{changelog[:LONGEST_TEXT]}\n\n… and more, in chassis/CHANGELOG.md"
    lines += [changelog, "## chassis/ before the update", f"```text\n{update.status}```"]
    return "\n\n".join(filter(None, lines))


def read_changelog(root: Path, version: str) -> list[str]:
    """Return the changelog's sections that are newer than a version, all if it is no release."""
    file = root / "chassis/CHANGELOG.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    old = version_key(version)
    orders = [version_key(section.split(maxsplit=2)[1].strip("[]:")) for section in sections]
    pairs = zip(sections, orders, strict=True)
    return [section for section, order in pairs if not old or not order or order > old]


if __name__ == "__main__":
    sys.exit(main())
