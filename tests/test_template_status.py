"""`chassis status` and `chassis diff`: what was changed by hand, what git lacks, what is newer."""

import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests import manifest
from tests.next_release import WORDS, is_left_alone, removed_files
from tests.project import Project, create_project, tree
from tests.releases import Releases, once
from tests.repository import (
    FIRST,
    NEXT,
    ROOT,
    TemplateRepository,
    commit,
    create_repository,
    git,
)
from tests.service import Finished, Service

CHASSIS = ROOT / "template" / "chassis"
TOOL = "chassis/tools/template_status.py"


@pytest.fixture
def project(few: Releases, tmp_path: Path) -> Project:
    """A service of the older release, under git."""
    return create_project(few.render(FIRST, {}), tmp_path / "project")


@pytest.fixture
def offline(project: Project) -> Project:
    """The same, whose template is gone: nothing is asked of it."""
    project.replace(".copier-answers.yml", "_src_path: ", "_src_path: https://me:hush@[::1]:9")
    project.commit("Forget the template")
    return project


def run_tool(project: Project, *arguments: str, **variables: str) -> Finished:
    """Run the tool by itself, on a Python without packages."""
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
    command = [sys.executable, "-S", TOOL, *arguments]
    return Finished.of(command, project.folder, path | variables)


def status(project: Project, *options: str, **variables: str) -> Finished:
    """Ask for the status."""
    return run_tool(project, "status", *options, **variables)


def tool(module: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the tool."""
    monkeypatch.syspath_prepend(CHASSIS / "tools")
    return importlib.import_module(module)


def test_the_manifest_holds_every_file_of_the_chassis() -> None:
    """`python -m tests.manifest` brings it up to date."""
    assert (CHASSIS / manifest.NAME).read_text(encoding="utf-8") == manifest.manifest(CHASSIS)


def test_a_fresh_render_is_as_it_was_rendered(releases: Releases, tmp_path: Path) -> None:
    project = create_project(releases.render(FIRST, {}), tmp_path / "project")
    said = status(project).check()
    assert f"rendered from {FIRST} of {releases.repository.path}" in said
    assert f"newest release: {NEXT}; `copier update` takes it" in said
    assert "chassis/ is as it was rendered" in said


def test_nothing_is_missed_outside_git_and_before_the_first_commit(offline: Project) -> None:
    offline.forget_history()
    status(offline).check()
    offline.delete(".git")
    status(offline).check()


def test_line_endings_of_a_checkout_are_no_change(offline: Project) -> None:
    name = "chassis/src/chassis/app.py"
    offline.write(name, offline.read(name).replace("\n", "\r\n"))
    status(offline).check()


def test_line_endings_that_were_committed_are_named_with_the_cure(offline: Project) -> None:
    offline.delete("chassis/.gitattributes", ".gitattributes")
    offline.commit("Edit")
    name = "chassis/src/chassis/app.py"
    offline.write(name, offline.read(name).replace("\n", "\r\n"))
    offline.commit("Edit on Windows")
    git(offline.repository, "checkout", "--quiet", "HEAD~2", "--", "chassis/.gitattributes")
    said = status(offline)
    assert said.code == 1
    assert "CRLF     src/chassis/app.py" in said.output
    git(offline.repository, "add", "--renormalize", "chassis")
    status(offline).check()


def test_changes_by_hand_are_named_with_the_place_where_they_belong(offline: Project) -> None:
    offline.append("chassis/src/chassis/app.py", "# Ours.\n")
    offline.delete("chassis/docs/README.md")
    offline.write("chassis/src/chassis/ours.py", "")
    said = status(offline)
    assert said.code == 1
    assert "edited   src/chassis/app.py\n         middleware, handlers and start-up" in said.output
    assert "deleted  docs/README.md\n         an update does not bring it back" in said.output
    assert "added    src/chassis/ours.py" in said.output


@pytest.mark.parametrize("length", ["60", "120"])
def test_a_formatter_of_the_team_is_noticed(length: str, offline: Project) -> None:
    """With a configuration of its own: that of chassis/pyproject.toml is not read then."""
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", length]
    subprocess.run([*ruff, "chassis/src"], cwd=offline.folder, check=True, capture_output=True)
    said = status(offline)
    assert said.code == 1
    assert "edited   src/chassis/app.py" in said.output


def test_what_an_update_does_to_an_edit_is_said_before(project: Project, few: Releases) -> None:
    """A file that the release removes takes the edit with it, and Copier says nothing."""
    first = project.folder.parent / "first" / "chassis"
    shutil.copytree(few.render(FIRST, {}), first.parent)
    gone = removed_files(first.parent)[0].relative_to(first.parent).as_posix()
    same = min(path for path in (first / "src").rglob("*.py") if is_left_alone(path))
    kept = same.relative_to(first.parent).as_posix()
    for name in (gone, kept, "chassis/src/chassis/app.py"):
        project.append(name, "# Ours.\n")
    project.commit("Patch the chassis")
    said = status(project).output
    assert re.search(rf"{gone[8:]}\n.*\n +{NEXT} has no such file: an update drops the edit", said)
    assert re.search(rf"{kept[8:]}\n.*\n +{NEXT} leaves the file as it is: an update keeps", said)
    assert re.search(rf"src/chassis/app.py\n.*\n +{NEXT} changes the file too: .* conflict", said)
    project.update()
    assert not project.path(gone).exists()
    assert "# Ours." in project.read(kept)
    conflict = status(project)
    assert conflict.code == 1
    assert re.search(
        r"edited   src/chassis/app.py\n.*\n +it holds conflict markers", said := conflict.output
    )
    assert "newest release: this one" in said


def test_the_chassis_is_rendered_again_alone(project: Project) -> None:
    """By the command that status prints: what the team deleted stays deleted."""
    project.append("chassis/src/chassis/app.py", "<<<<<<< ours\n")
    project.delete("chassis/docs", "src/my_service/migrations/versions", "Dockerfile")
    project.append("README.md", "Ours.\n")
    project.commit("Edit")
    before = tree(project.folder)
    found = re.search(r"without the changes: uvx (copier .*)", status(project).output)
    assert found
    subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m {found[1]}'], cwd=project.folder, check=True
    )
    project.commit("Render the chassis again")
    status(project).check()
    after = tree(project.folder)
    mine = {name for name in before | after if not name.startswith("chassis/")}
    assert {name: after.get(name) for name in mine} == {name: before.get(name) for name in mine}


def test_what_git_ignores_is_named_with_the_rule(offline: Project) -> None:
    offline.forget_history()
    git(offline.repository, "rm", "-r", "--quiet", "--cached", "--ignore-unmatch", ".")
    offline.append(".gitignore", "/chassis/\n")
    offline.commit("Ignore the whole folder: no rule inside it counts")
    said = status(offline)
    assert said.code == 1
    assert "ignored  " in said.output
    assert re.search(
        r'and \d+ more\n +by \.gitignore:\d+ "/chassis/": an update deletes', said.output
    )


def test_new_modules_that_were_not_committed_are_named(project: Project) -> None:
    """`git commit -a` leaves them out; a clone has a chassis without them."""
    project.update()
    git(project.repository, "commit", "--quiet", "--all", "--message", "Update")
    said = status(project)
    assert said.code == 1
    assert (
        "unknown to git  src/chassis/next_release.py\n         git add --all chassis" in said.output
    )
    git(project.repository, "clone", "--quiet", ".", "../clone")
    clone = status(Project(project.folder.parent / "clone", project.folder.parent / "clone"))
    assert clone.code == 1
    assert "deleted  src/chassis/next_release.py" in clone.output


def test_another_chassis_that_is_installed_is_named(offline: Project, tmp_path: Path) -> None:
    shutil.copytree(offline.path("chassis/src/chassis"), tmp_path / "site" / "chassis")
    status(offline, PYTHONPATH=str(tmp_path / "site")).check()
    (tmp_path / "site" / "chassis" / "app.py").write_text("# An older release.\n")
    said = status(offline, PYTHONPATH=str(tmp_path / "site"))
    assert said.code == 1
    assert f"installed is other code, in {tmp_path / 'site' / 'chassis'}" in said.output


def test_a_template_that_is_gone_is_one_sentence_without_its_password(offline: Project) -> None:
    said = status(offline).check()
    assert "newest release: unknown, as the template at https://[::1]:9" in said
    assert "hush" not in said


def test_a_chassis_that_does_not_stand_beside_the_answers_is_refused(project: Project) -> None:
    """Copier updates nothing then, exits with 0, and records the new version."""
    project.path("libs").mkdir()
    project.path("chassis").rename(project.path("libs/chassis"))
    project.commit("Move the chassis")
    moved = Project(project.path("libs"), project.repository)
    assert status(moved).code == 2
    assert "is not beside" in status(moved).output
    project.update()
    project.commit("Update")
    project.delete("chassis")
    project.path("libs/chassis").rename(project.path("chassis"))
    back = status(project)
    assert back.code == 2
    assert f"chassis/ is not of {NEXT}, which .copier-answers.yml records" in back.output


def test_answers_in_another_file_are_found(offline: Project) -> None:
    offline.path(".copier-answers.yml").rename(offline.path(".copier-answers.chassis.yml"))
    offline.write(".copier-answers.yml", "_commit: v9\n_src_path: gh:acme/handbook\n")
    assert f"rendered from {FIRST} of https" in status(offline).check()
    offline.path(".copier-answers.chassis.yml").rename(offline.path("answers.yml"))
    assert status(offline).code == 2
    assert "name the file by --answers-file" in status(offline).output
    status(offline, "--answers-file", "answers.yml").check()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (".copier-answers.yml", "<<<<<<< HEAD\n_commit: v1\n", "holds conflict markers"),
        ("chassis/MANIFEST.sha256", "<<<<<<< HEAD\n", "is damaged"),
        ("chassis/MANIFEST.sha256", None, "is missing"),
        (".copier-answers.yml", None, "there is no .copier-answers.yml beside chassis/"),
    ],
)
def test_what_can_not_be_compared_is_one_sentence(
    name: str, text: str | None, says: str, offline: Project
) -> None:
    if text is None:
        offline.delete(name)
    else:
        offline.write(name, f"{offline.read(name)}{text}")
    said = status(offline)
    assert said.code == 2
    assert says in said.output
    assert "Traceback" not in said.output


ORDER = (
    "0.0.1 0.1.dev1 v0.1.0a1 0.1b2.dev3 0.1-beta.2 0.1.0rc1 0.1.0-rc.2 v0.1.0 0.1.0+acme.1 "
    "0.1.0+acme.2 0.1.0+acme.10 0.1.0+2 0.1.0.post1.dev2 0.1-1 0.1.post2 v0.2 v0.10.0 1!0.1"
)


def test_tags_are_in_the_order_of_pep_440(monkeypatch: pytest.MonkeyPatch) -> None:
    version_key = tool("template_releases", monkeypatch).version_key
    for earlier, later in pairwise(ORDER.split()):
        assert Version(earlier) < Version(later)
        assert version_key(earlier) < version_key(later), later
    assert version_key("v1.0.0") == version_key("1.0") == version_key("1")
    assert [version_key(no_version) for no_version in ("latest", "v1.x", "release-1.0")] == [()] * 3


@pytest.mark.parametrize(
    ("version", "tags", "says"),
    [
        ("v1.1.0rc1", "v1.0.0 v1.1.0rc1", "v1.0.0; v1.1.0rc1 is newer"),
        ("v1.1.0rc1", "v1.0.0 v1.1.0rc1 v1.1.0", "v1.1.0; `copier update` takes it"),
        ("v1.0.0", "v1.0.0 v1.1.0rc1", "this one"),
        ("v1.0.0-2-gabcdef1", "v1.0.0", "v1.0.0; v1.0.0-2-gabcdef1 is newer"),
        ("v1.0.0-2-gabcdef1", "v1.0.0 v1.0.1", "v1.0.1; `copier update` takes it"),
        ("abcdef1", "v1.0.0", "v1.0.0; `copier update` takes it"),
        ("abcdef1", "", "the template has none yet"),
        ("v0.2.0", "v0.2.0 v0.2.0+acme.1", "v0.2.0+acme.1; `copier update` takes it"),
        ("v0.2.0+acme.1", "v0.2.0 v0.2.0+acme.1", "this one"),
        ("v0.2.0+acme.2", "v0.2.0+acme.2 v0.2.0+acme.10", "v0.2.0+acme.10; `copier update` takes"),
        ("v0.9.0", "v0.9.0 v0.10.0", "v0.10.0; `copier update` takes it"),
        ("v0.9.0", "v0.9.0 nightly", "this one"),
        ("v0.9.0", "v1.0.0", "v1.0.0; v0.9.0 is no longer in the template, so no update can start"),
    ],
)
def test_versions_are_compared_as_copier_does(
    version: str, tags: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence, _ = tool("template_releases", monkeypatch).compare_versions(version, tags.split())
    assert sentence.startswith(says)


@pytest.mark.skipif(
    Version(importlib.metadata.version("copier")) < Version("9.11"), reason="no check-update"
)
def test_copier_itself_agrees_on_what_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a template that is tagged after an untagged commit, then for a candidate."""
    compare_versions = tool("template_releases", monkeypatch).compare_versions
    template = create_repository(tmp_path / "template")
    (template.path / "copier.yml").write_text("_subdirectory: template\n")
    recorded, tags = commits_of(template, ["", "v0.9.0", "", "v1.0.0", "", "v1.1.0rc1"])
    for version in recorded:
        project = tmp_path / version
        project.mkdir()
        record = f"_commit: '{version}'\n_src_path: {template.path}\n"
        (project / ".copier-answers.yml").write_text(record)
        check = [sys.executable, "-m", "copier", "check-update", "--output-format", "json"]
        done = subprocess.run(check, cwd=project, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["update_available"] == bool(
            compare_versions(version, tags)[1]
        )


def commits_of(template: TemplateRepository, tags: list[str]) -> tuple[list[str], list[str]]:
    """Make a commit for each tag, the empty ones without; return what describes each, and tags."""
    described = []
    for tag in tags:
        commit(template.path, f"Commit {tag}")
        if tag:
            git(template.path, "tag", "--annotate", "--message", tag, tag)
        described.append(git(template.path, "describe", "--tags", "--always").strip())
    return described, [tag for tag in tags if tag]


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


def test_the_service_has_the_commands_too(service: Service, project: Project) -> None:
    assert "chassis/ is as it was rendered" in service.cli("chassis", "status").check()
    project.append("chassis/src/chassis/app.py", "# Ours.\n")
    assert service.cli("chassis", "status").code == 1
    assert service.cli("chassis", "status", "--answers-file", "none.yml").code == 2


def test_outside_of_a_checkout_it_says_what_it_needs(service: Service, tmp_path: Path) -> None:
    """As in an image, which holds no chassis/tools."""
    (tmp_path / "elsewhere").mkdir()
    said = Service(tmp_path / "elsewhere", service.python, service.environment).run(
        "my-service", "chassis", "status"
    )
    assert said.code == 2
    assert "run this in the service's checkout" in said.output


def test_the_diff_shows_the_users_half_of_the_newest_release_and_changes_nothing(
    project: Project,
) -> None:
    before = tree(project.folder)
    diff = run_tool(project, "diff").check()
    assert f"+# {WORDS}" in diff
    assert "newest/Dockerfile" in diff
    assert "diff --git a/recorded/chassis" not in diff
    assert tree(project.folder) == before


def test_the_diff_needs_copier_and_says_so(project: Project) -> None:
    """On a PATH with git and without uv and Copier."""
    git_command = shutil.which("git")
    assert git_command is not None
    tools = project.folder.parent / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(git_command)
    diff = run_tool(project, "diff", PATH=str(tools))
    assert diff.code == 2
    assert "neither copier nor uvx is on the PATH" in diff.output
