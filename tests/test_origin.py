"""`my-service chassis status` and `chassis diff`: what was changed by hand, and what is newer."""

import shutil
import sys
from pathlib import Path

import pytest

from tests import manifest
from tests.next_release import WORDS
from tests.project import Project, create_project, tree
from tests.releases import Releases, once
from tests.repository import FIRST, NEXT, ROOT
from tests.service import Finished, Service

CHASSIS = ROOT / "template" / "chassis"


@pytest.fixture
def project(releases: Releases, tmp_path: Path) -> Project:
    """A service of the older release, under git."""
    return create_project(releases.render(FIRST, {}), tmp_path / "project")


@pytest.fixture(scope="session")
def installed(releases: Releases, shared: Path) -> Service:
    """A service of the older release, installed: its command runs in other checkouts too."""

    def install(folder: Path) -> None:
        shutil.copytree(releases.render(FIRST, {}), folder)
        Service(folder, Path(sys.executable)).install()

    return Service(once(shared / "origin", install), Path(sys.executable))


@pytest.fixture
def service(installed: Service, project: Project) -> Service:
    """The installed command, at work in the project's checkout."""
    return Service(project.folder, installed.python, {"UV_PROJECT": str(installed.folder)})


def test_the_manifest_holds_every_file_of_the_chassis() -> None:
    """`python -m tests.manifest` brings it up to date."""
    assert (CHASSIS / manifest.NAME).read_text(encoding="utf-8") == manifest.manifest(CHASSIS)


def test_a_fresh_render_is_as_it_was_rendered(service: Service, releases: Releases) -> None:
    said = service.cli("chassis", "status").check()
    assert f"rendered from {FIRST} of {releases.repository.path}" in said
    assert f"newest release: {NEXT}; `copier update` takes it" in said
    assert "chassis/ is as it was rendered" in said


def test_line_endings_are_no_change(service: Service, project: Project) -> None:
    name = "chassis/src/chassis/app.py"
    project.write(name, project.read(name).replace("\n", "\r\n"))
    assert service.cli("chassis", "status").code == 0


def test_changes_by_hand_are_named_with_the_place_where_they_belong(
    service: Service, project: Project
) -> None:
    project.append("chassis/src/chassis/app.py", "# Ours.\n")
    project.delete("chassis/docs/README.md")
    project.write("chassis/src/chassis/ours.py", "")
    status = service.cli("chassis", "status")
    assert status.code == 1
    assert (
        "edited   src/chassis/app.py\n         middleware, handlers and start-up" in status.output
    )
    assert "deleted  docs/README.md" in status.output
    assert "added    src/chassis/ours.py" in status.output


def test_an_unreachable_template_is_said_and_no_failure(service: Service, project: Project) -> None:
    project.replace(".copier-answers.yml", "_src_path: ", "_src_path: /nowhere")
    status = service.cli("chassis", "status")
    assert status.code == 0
    assert "newest release: unknown, git failed" in status.output


def test_outside_of_a_service_it_can_not_tell(service: Service, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    status = Service(tmp_path / "elsewhere", service.python, service.environment).run(
        "my-service", "chassis", "status"
    )
    assert status.code == 2
    assert "there is no .copier-answers.yml here or above" in status.output


def test_the_diff_shows_the_users_half_of_the_newest_release_and_changes_nothing(
    service: Service, project: Project
) -> None:
    before = tree(project.folder)
    diff = service.cli("chassis", "diff").check()
    assert f"+# {WORDS}" in diff
    assert "newest/Dockerfile" in diff
    assert "diff --git a/recorded/chassis" not in diff
    assert tree(project.folder) == before


def test_the_diff_needs_copier_and_says_so(installed: Service, project: Project) -> None:
    """The console script alone, on a PATH with git and without uv and Copier."""
    git = shutil.which("git")
    assert git is not None
    tools = project.folder.parent / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(git)
    script = installed.folder / ".venv" / "bin" / "my-service"
    diff = Finished.of([str(script), "chassis", "diff"], project.folder, {"PATH": str(tools)})
    assert diff.code == 2
    assert "neither copier nor uvx is on the PATH" in diff.output
