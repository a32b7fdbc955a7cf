"""The update as a pull request: what is pushed, what is left alone, and what its text says."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import manifest
from tests.project import ANSWERS_FILE, Project, create_project
from tests.releases import Releases, once
from tests.repository import FIRST, NEXT, ROOT, TemplateRepository, git
from tests.service import UV, Finished, Service

ADDRESS = "https://github.com/acme/template.git"
BRANCH = "template-update"
LATER = "v1.2.0"
TOOLS = ROOT / "template" / "chassis" / "tools"
# What stands for GitHub: it notes how it is called, and knows the pull requests that it is told.
GH = """#!{python}
import pathlib, subprocess, sys
folder = pathlib.Path(__file__).parent
text = sys.stdin.read() if "--body-file" in sys.argv else ""
with (folder / "calls").open("a") as calls:
    print(" ".join(sys.argv[1:3]), file=calls)
if sys.argv[2] == "list":
    print((folder / "pulls.json").read_text())
    subprocess.run(["sh", str(folder / "meanwhile.sh")], check=True)
else:
    (folder / "text.md").write_text(" ".join(sys.argv[3:]) + "\\n" + text)
    sys.exit((folder / "forbidden").exists())
"""


class Origin:
    """A service's repository at GitHub: a bare one, with a template, a checkout and a gh."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bare, self.gh = folder, folder / "origin.git", folder / "bin"
        self.template = TemplateRepository(folder / "template")
        self.project = Project(folder / "service", folder / "service")

    def create(self, releases: Releases) -> None:
        """Publish the template at an address that only this folder knows, and a service of it."""
        self.gh.mkdir(parents=True)
        git(self.gh, "clone", "--quiet", str(releases.repository.path), str(self.template.path))
        create_project(releases.render(FIRST, {}), self.project.folder)
        self.project.replace(ANSWERS_FILE, str(releases.repository.path), ADDRESS)
        self.project.commit("Name the template")
        git(self.project.folder, "branch", "--move", "--force", "main")
        git(self.folder, "clone", "--quiet", "--bare", "service", "origin.git")
        (self.gh / "gh").write_text(GH.replace("{python}", sys.executable))
        (self.gh / "gh").chmod(0o755)
        (self.gh / "meanwhile.sh").touch()
        self.know()

    def know(self, state: str = "", tip: str = "") -> None:
        """Have one pull request in a state, at the branch's tip if no other is named; or none."""
        pulls = [{"state": state, "headRefOid": tip or self.tip()}] if state else []
        (self.gh / "pulls.json").write_text(json.dumps(pulls))

    def push(self, message: str = "Edit the service") -> None:
        """Commit the service's main branch, and push it."""
        self.project.commit(message)
        git(self.project.folder, "push", "--quiet", "--force", str(self.bare), "main")

    def propose(self, program: str = "chassis/tools/template_update.py") -> Finished:
        """Run the workflow's program in a checkout of its own."""
        checkout = self.folder / "checkout"
        shutil.rmtree(checkout, ignore_errors=True)
        self.clone(checkout, "github-actions[bot]")
        self.write_git_configuration()
        for name in ("calls", "text.md"):
            (self.gh / name).unlink(missing_ok=True)
        path = f"{self.gh}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        command = [sys.executable, "-S", program, "--base", "main"]
        own = {
            "PATH": path,
            "GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig"),
            # Copier keeps what an address once held, and here each folder has another behind it.
            "COPIER_CACHE_DIR": str(self.folder / "cache"),
        }
        variables = Service(checkout, Path(sys.executable), own).variables()
        return Finished.of(command, checkout, variables)

    def write_git_configuration(self) -> None:
        """Have git read the template's address from this folder, as a token or key does."""
        alias = f'[url "{self.template.path}"]\n    insteadOf = {ADDRESS}\n'
        (self.folder / "gitconfig").write_text(alias)

    def clone(self, folder: Path, name: str) -> None:
        """Clone the service for somebody."""
        git(self.folder, "clone", "--quiet", str(self.bare), str(folder))
        git(folder, "config", "user.name", name)
        git(folder, "config", "user.email", f"{name.split('[')[0]}@example.com")

    def push_to_the_branch(self, name: str = "README.md", *options: str) -> str:
        """Commit to the pull request's branch as a member of the team; return the new tip."""
        shutil.rmtree(self.folder / "colleague", ignore_errors=True)
        self.clone(self.folder / "colleague", "Ada")
        git(self.folder / "colleague", "switch", "--quiet", BRANCH)
        with (self.folder / "colleague" / name).open("a") as file:
            file.write("# Ours.\n")
        git(self.folder / "colleague", "commit", "--quiet", "--all", "-m", "Adapt", *options)
        git(self.folder / "colleague", "push", "--quiet", "--force")
        return self.tip()

    def tip(self) -> str:
        """Return the branch's commit, nothing if there is no branch."""
        return git(self.bare, "for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCH}")[:-1]

    def show(self, path: str) -> str:
        """Read a file of the branch."""
        return git(self.bare, "show", f"{BRANCH}:{path}")

    def calls(self) -> list[str]:
        """Return how gh was called, the question for pull requests excepted."""
        return (self.gh / "calls").read_text().splitlines()[1:]

    def text(self) -> str:
        """Return the pull request's title and text."""
        return (self.gh / "text.md").read_text()

    def release_later(self) -> None:
        """Release the template again."""
        (self.template.template / "chassis" / "LATER.md").write_text("Later.\n")
        manifest.write(self.template.template / "chassis")
        self.template.release(LATER)


@pytest.fixture(scope="session")
def published(few: Releases, shared: Path) -> Path:
    """A service of the older release with two edits in its chassis, at GitHub; for copying."""

    def publish(folder: Path) -> None:
        origin = Origin(folder)
        origin.create(few)
        for name in edited_files(few):
            origin.project.append(str(name), "# Ours.\n")
        origin.push()

    return once(shared / "published", publish)


@pytest.fixture(scope="session")
def proposed_once(published: Path, shared: Path) -> Path:
    """The same, and its pull request is pushed."""

    def propose(folder: Path) -> None:
        shutil.copytree(published, folder)
        said = Origin(folder).propose().check()
        assert f"{NEXT} is proposed\n" in said

    return once(shared / "proposed", propose)


@pytest.fixture
def origin(published: Path, tmp_path: Path) -> Origin:
    """A service of the older release, at GitHub."""
    return Origin(shutil.copytree(published, tmp_path / "github"))


@pytest.fixture
def proposed(proposed_once: Path, tmp_path: Path) -> Origin:
    """The same with an open pull request to the newest release."""
    origin = Origin(shutil.copytree(proposed_once, tmp_path / "github"))
    origin.know("OPEN")
    return origin


def edited_files(releases: Releases) -> tuple[Path, Path]:
    """Name a file that the next release removes, and one that it leaves as it is."""
    chassis, following = releases.render(FIRST, {}) / "chassis", releases.render(NEXT, {})
    gone = next(name for name in files(chassis) if not (following / name).exists())
    return gone, Path("chassis/src/chassis/settings.py")


def test_the_newest_release_is_proposed(proposed: Origin) -> None:
    changed = git(proposed.bare, "diff", "--name-only", "main", BRANCH).split()
    assert {name.split("/")[0] for name in changed} == {"chassis", ANSWERS_FILE}
    assert "chassis/src/chassis/next_release.py" in changed
    assert git(proposed.bare, "rev-list", "--count", f"main..{BRANCH}") == "1\n"
    assert proposed.calls() == ["pr create"]


def test_the_text_says_what_changed_what_is_lost_and_what_stood_before(
    proposed: Origin, few: Releases
) -> None:
    """A file that the release removes takes its edit along, and Copier says nothing of it."""
    gone, kept = edited_files(few)
    text = proposed.text()
    assert text.startswith(f"--head {BRANCH} --base main --title Update the template to {NEXT}")
    assert f"From {FIRST} to {NEXT} of {ADDRESS}" in text
    assert f"**Edits are lost**: {NEXT} has no file {gone.relative_to('chassis')}." in text
    assert "## Unreleased" in text
    assert "### What you must do" in text
    assert f"edited   {kept.relative_to('chassis')}" in text
    assert "# Ours." in proposed.show(str(kept))


def files(chassis: Path) -> list[Path]:
    """Name a chassis's files as a service has them."""
    return [p.relative_to(chassis.parent) for p in sorted(chassis.rglob("*")) if p.is_file()]


def test_of_the_changelog_the_sections_newer_than_the_service_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TOOLS)
    read: Callable[[Path, str], list[str]] = importlib.import_module(
        "template_update"
    ).read_changelog
    (tmp_path / "chassis").mkdir()
    log = tmp_path / "chassis" / "CHANGELOG.md"
    log.write_text(
        "# Changelog\n\nFor all.\n\n## Unreleased\n\n- E\n\n## 1.10.0 (2026-03-01)\n\n- D\n"
        "\n## [1.2.0]: fixes\n\n- C\n\n## v1.1.0+acme.1\n\n- B\n\n## 1.1.0\n\n- A\n"
    )
    wanted = {
        "v1.1.0": "EDCB",
        "v1.1.0+acme.1": "EDC",
        "v1.2.0": "ED",
        "v1.10": "E",
        "ab12": "EDCBA",
    }
    for version, letters in wanted.items():
        assert [section.split("- ")[1][0] for section in read(tmp_path, version)] == [*letters]
    log.unlink()
    assert read(tmp_path, "v1.1.0") == []


@pytest.mark.parametrize("state", ["OPEN", "CLOSED"])
def test_what_is_proposed_already_is_left_alone(state: str, proposed: Origin) -> None:
    """Also when the main branch went on, or a person closed the pull request."""
    tip = proposed.tip()
    proposed.know(state)
    proposed.project.append("README.md", "Ours.\n")
    proposed.push()
    assert f"{NEXT} is proposed already" in proposed.propose().check()
    assert (proposed.tip(), proposed.calls()) == (tip, [])


def test_a_pull_request_that_could_not_be_opened_is_opened_by_the_next_run(
    proposed: Origin,
) -> None:
    """Workflows may not make any, as long as the repository's settings don't allow it."""
    tip = proposed.tip()
    proposed.know()
    proposed.propose().check()
    assert (proposed.tip(), proposed.calls()) == (tip, ["pr create"])


def test_a_proposal_of_its_own_gives_way_to_a_later_release(proposed: Origin) -> None:
    proposed.release_later()
    proposed.propose().check()
    assert proposed.show("chassis/LATER.md") == "Later.\n"
    assert git(proposed.bare, "rev-list", "--count", f"main..{BRANCH}") == "1\n"
    assert proposed.calls() == ["pr edit"]
    assert f"{BRANCH} --title Update the template to {LATER}" in proposed.text()


def test_commits_of_others_are_never_dropped(proposed: Origin) -> None:
    """The same release leaves them in peace; a later one can't be proposed, which fails."""
    tip = proposed.push_to_the_branch("chassis/README.md")
    proposed.know("OPEN")
    assert f"{NEXT} is proposed already, with commits of others" in proposed.propose().check()
    assert proposed.tip() == tip
    refuses_a_later_release(proposed)


def test_a_proposal_that_somebody_amended_is_theirs(proposed: Origin) -> None:
    proposed.push_to_the_branch("README.md", "--amend")
    proposed.know("OPEN")
    refuses_a_later_release(proposed)


def refuses_a_later_release(proposed: Origin) -> None:
    """Check that a later release is refused by name, and that the branch stays."""
    tip = proposed.tip()
    proposed.release_later()
    said = proposed.propose()
    assert said.code == 1
    assert f"{LATER} can't be proposed: {BRANCH} holds commits of others" in said.output
    assert "Ada" in said.output
    assert (proposed.tip(), proposed.calls()) == (tip, [])


def test_what_was_merged_is_not_in_the_way(proposed: Origin) -> None:
    """Squashed, from a branch that holds a colleague's commit and that nobody deleted."""
    proposed.push_to_the_branch()
    git(proposed.project.folder, "fetch", "--quiet", str(proposed.bare), BRANCH)
    git(proposed.project.folder, "merge", "--quiet", "--squash", "FETCH_HEAD")
    proposed.push()
    proposed.know("MERGED")
    proposed.release_later()
    assert f"{LATER} is proposed" in proposed.propose().check()
    assert proposed.calls() == ["pr create"]


def test_what_is_pushed_meanwhile_is_not_overwritten(proposed: Origin) -> None:
    """After the branch was looked at, before the push: the lease holds it back."""
    proposed.release_later()
    (proposed.gh / "meanwhile.sh").write_text(
        f"git -C {proposed.bare} branch --force {BRANCH} main\n"
    )
    said = proposed.propose()
    assert said.code == 1
    assert "git failed" in said.output
    assert proposed.tip() == git(proposed.bare, "rev-parse", "main").strip()
    assert proposed.calls() == []


def test_a_conflict_is_named_and_nothing_is_pushed(origin: Origin) -> None:
    """uv could not even read the file."""
    origin.project.append("chassis/pyproject.toml", "# Ours.\n")
    origin.project.write("uv.lock", "")
    origin.push()
    said = origin.propose()
    assert said.code == 1
    assert "edited here and in the template: chassis/pyproject.toml. Nothing" in said.output
    assert (origin.tip(), origin.calls()) == ("", [])


def test_a_service_in_a_folder_of_a_monorepo_is_proposed(origin: Origin) -> None:
    root, service = origin.project.folder, origin.project.folder / "services" / "stock"
    service.mkdir(parents=True)
    for path in [path for path in root.iterdir() if path.name not in (".git", "services")]:
        path.rename(service / path.name)
    origin.push("Move into a monorepo")
    program = "services/stock/chassis/tools/template_update.py"

    assert f"{NEXT} is proposed\n" in origin.propose(program).check()

    changed = git(origin.bare, "diff", "--name-only", "main", BRANCH).split()
    assert {Path(name).parts[:3] for name in changed} == {
        ("services", "stock", "chassis"),
        ("services", "stock", ANSWERS_FILE),
    }
    origin.know("OPEN")
    assert "is proposed already" in origin.propose(program).check()


def test_a_chassis_that_was_moved_is_refused(origin: Origin) -> None:
    """Copier would update nothing, and record the new version."""
    origin.project.path("libs").mkdir()
    origin.project.path("chassis").rename(origin.project.path("libs/chassis"))
    origin.push()
    said = origin.propose("libs/chassis/tools/template_update.py")
    assert said.code == 1
    assert "is not beside" in said.output
    assert origin.tip() == ""


def test_nothing_newer_is_no_failure_and_pushes_nothing(proposed: Origin) -> None:
    git(proposed.project.folder, "pull", "--quiet", str(proposed.bare), BRANCH)
    proposed.push()
    git(proposed.bare, "branch", "--delete", "--force", BRANCH)
    assert "nothing is newer" in proposed.propose().check()
    assert (proposed.tip(), proposed.calls()) == ("", [])


def test_a_lock_that_is_in_git_is_brought_up_to_date(origin: Origin) -> None:
    subprocess.run([UV, "lock", "--quiet"], cwd=origin.project.folder, check=True)
    assert origin.project.read("uv.lock").count('version = "0.1.0"') == 1
    origin.project.replace("pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"')
    origin.push()
    origin.propose().check()
    assert 'version = "0.2.0"' in origin.show("uv.lock")


def test_the_workflow_runs_it_as_tested() -> None:
    """Without credentials in git's configuration, which would keep a private template's out."""
    text = (ROOT / "template/.github/workflows/template.yml").read_text(encoding="utf-8")
    workflow: dict[str, Any] = yaml.safe_load(text.replace("\non:", "\nwhen:"))
    checkout, _, step = workflow["jobs"]["update"]["steps"]
    assert checkout["with"]["fetch-depth"] == 0
    assert checkout["with"]["persist-credentials"] is False
    *configure, last = step["run"].splitlines()
    assert last == 'python3 chassis/tools/template_update.py --base "$MAIN"'
    assert configure[0].startswith("gh auth setup-git")
    assert all(line.startswith("git config user.") for line in configure[1:])
