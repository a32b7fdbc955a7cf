"""What the guide says about updates: a moved template, a fork, the way back."""

import re
import subprocess
from pathlib import Path

import pytest
from plumbum import ProcessExecutionError

from tests.project import ANSWERS_FILE, Project, create_project, tree
from tests.releases import Releases
from tests.repository import FIRST, NEXT, ROOT, TemplateRepository, git

GUIDE = (ROOT / "template/chassis/docs/updating.md").read_text(encoding="utf-8")


@pytest.fixture
def project(few: Releases, tmp_path: Path) -> Project:
    """A service of the older release, under git."""
    return create_project(few.render(FIRST, {}), tmp_path / "project")


def recipe(heading: str) -> list[str]:
    """Read the commands under a heading."""
    section = GUIDE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1].splitlines()


def run(command: str, folder: Path) -> None:
    """Run a line of the guide."""
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, capture_output=True)


def clone(few: Releases, folder: Path, *options: str) -> TemplateRepository:
    """Copy the template to another place, its history and tags included."""
    git(folder, "clone", "--quiet", *options, str(few.repository.path), "fork")
    return TemplateRepository(folder / "fork")


def test_a_template_that_moved_is_updated_from_its_new_place(
    project: Project, few: Releases, tmp_path: Path
) -> None:
    moved = clone(few, tmp_path).path
    project.replace(ANSWERS_FILE, str(few.repository.path), str(tmp_path / "gone"))
    project.commit("Forget the template")
    edit, record, _ = recipe("A template that moved")
    address = re.search(r"https://[^|]+", edit)
    assert address
    run(edit.replace(address[0], str(moved)), project.folder)
    run(record, project.folder)
    project.update()
    assert (project.answers["_src_path"], project.answers["_commit"]) == (str(moved), NEXT)
    assert tree(project.folder / "chassis") == tree(few.render(NEXT, {}) / "chassis")


def test_a_reverted_update_is_the_older_release_and_can_be_made_again(
    project: Project, few: Releases
) -> None:
    project.update()
    project.commit("Update")
    project.append("README.md", "Ours.\n")
    project.commit("Edit")
    revert, _ = recipe("The way back")
    run(revert.replace("HEAD", "HEAD~1"), project.folder)
    assert project.answers["_commit"] == FIRST
    assert tree(project.folder / "chassis") == tree(few.render(FIRST, {}) / "chassis")
    project.update()
    assert project.answers["_commit"] == NEXT
    assert tree(project.folder / "chassis") == tree(few.render(NEXT, {}) / "chassis")
    assert project.read("README.md").endswith("Ours.\n")


def test_a_fork_with_the_tags_of_the_original_is_updated_by_its_own_releases(
    project: Project, few: Releases, tmp_path: Path
) -> None:
    fork = clone(few, tmp_path, "--no-tags", "--single-branch")
    git(fork.path, "switch", "--quiet", "--detach", "HEAD~1")
    project.replace(ANSWERS_FILE, str(few.repository.path), str(fork.path))
    project.commit("Take the fork")
    release(fork, "v1.0.0+acme.1")
    with pytest.raises((ValueError, ProcessExecutionError), match=FIRST):
        project.update()
    add, fetch, *_ = recipe("A fork of the template")
    run(re.sub(r"https:\S+", str(few.repository.path), add), fork.path)
    run(fetch, fork.path)
    git(fork.path, "tag", "--delete", NEXT)
    project.update()
    assert project.answers["_commit"] == "v1.0.0+acme.1"
    project.commit("Update")
    run(fetch, fork.path)
    git(fork.path, "switch", "--quiet", "--detach", NEXT)
    release(fork, "v1.1.0+acme.1")
    project.update()
    assert project.answers["_commit"] == "v1.1.0+acme.1"
    assert project.read("chassis/ACME.md") == "v1.1.0+acme.1\n"


def release(fork: TemplateRepository, tag: str) -> None:
    """Release the fork with a file of its own."""
    (fork.template / "chassis" / "ACME.md").write_text(f"{tag}\n")
    fork.release(tag)
