"""What the guide says about the service's repository: files that are there, a workspace, a name."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.project import Project, create_project, tree
from tests.releases import Releases
from tests.repository import FIRST, NEXT, ROOT, commit, git
from tests.service import Service
from tests.test_update import copier_command
from tests.test_update_recipes import run

GUIDE = (ROOT / "template/chassis/docs/repository.md").read_text(encoding="utf-8")


def block(heading: str) -> list[str]:
    """Read the lines of the block under a heading."""
    section = GUIDE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1].splitlines()


@pytest.fixture
def project(few: Releases, tmp_path: Path) -> Project:
    """A service of the older release, under git."""
    return create_project(few.render(FIRST, {}), tmp_path / "project")


def test_a_repository_that_is_there_gets_all_files(few: Releases, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    for name in ("README.md", ".gitignore"):
        (tmp_path / name).write_text("made by the host\n", encoding="utf-8")
    commit(tmp_path, "Initial commit")
    copy = ["copy", "--defaults", "--vcs-ref", FIRST, str(few.repository.path), "."]
    said = copier_command(*copy, folder=tmp_path)
    assert (tmp_path / ".gitignore").read_text(encoding="utf-8") == "made by the host\n"
    assert "What was there is kept, `skip` above names it: a .gitignore needs /data/" in said
    remove, _ = block("A repository that is there already")
    run(remove, tmp_path)
    copier_command(*copy, folder=tmp_path)
    assert tree(tmp_path) == tree(few.render(FIRST, {}))


def test_a_workspace_leaves_the_service_out(few: Releases, tmp_path: Path) -> None:
    service = create_project(few.render(FIRST, {}), tmp_path, "services/stock").folder
    root = ["[project]", 'name = "root"', 'version = "0"', 'requires-python = ">=3.11"']
    text = "\n".join([*root, *block("A monorepo")])
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    Service(service, Path(sys.executable)).uv("lock").check()
    assert (service / "uv.lock").is_file()
    assert not (tmp_path / "uv.lock").exists()


def test_the_package_gets_another_name(project: Project, few: Releases) -> None:
    move, replace, _ = block("Another name")
    run(move, project.folder)
    run(replace, project.folder)
    project.commit("Rename the package")
    mine = {name: project.read(name) for name in project.files()}
    assert not [name for name, text in mine.items() if "my_service" in name + text]
    settings = tomllib.loads(mine["pyproject.toml"])
    assert settings["project"]["scripts"] == {"my-service": "billing.cli:run"}
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/billing"]
    project.update({"package_name": "billing"})
    assert {name: project.read(name) for name in project.files()} == mine
    assert project.answers["package_name"] == "billing"
    assert tree(project.folder / "chassis") == tree(few.render(NEXT, {}) / "chassis")
