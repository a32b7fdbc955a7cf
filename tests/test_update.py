"""The promise: `copier update` brings the newer chassis and touches nothing else."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import copier
import pytest
from copier.errors import UserMessageError
from jinja2 import Template

from tests.next_release import ADDED_FILE, WORDS
from tests.postgres import Postgres
from tests.project import ANSWERS_FILE, Project, create_project, render, tree, update
from tests.releases import Releases, earlier_and_this, keep_few, this_and_next
from tests.repository import (
    FIRST,
    NEXT,
    TemplateRepository,
    commit,
    copy_work_tree,
    create_repository,
    earlier_versions,
    git,
)
from tests.scale import FULL
from tests.scenarios import DOES_NOT_APPLY, IMPORTANT, SCENARIOS, Scenario
from tests.service import Service
from tests.update_table import run, spread

RUNNING = [scenario for scenario in SCENARIOS if scenario.runs] if FULL else IMPORTANT
WITHOUT_OWNERSHIP = SCENARIOS if FULL else SCENARIOS[::8]
EARLIER = spread(earlier_versions())
ENDS = [IMPORTANT[0], IMPORTANT[-1]]
# Copier takes milliseconds for each, three times in an update.
MOST_FILES = 450


def each(scenarios: list[Scenario]) -> pytest.MarkDecorator:
    """Run a test for each of some scenarios, under its name."""
    return pytest.mark.parametrize("scenario", scenarios, ids=lambda scenario: scenario.name)


@pytest.fixture
def project(few: Releases, tmp_path: Path) -> Project:
    """A service of the older release, under git."""
    return create_project(few.render(FIRST, {}), tmp_path / "project")


@each(SCENARIOS)
def test_an_update_keeps_every_promise(
    scenario: Scenario, releases: Releases, few: Releases, tmp_path: Path
) -> None:
    """With every file of the chassis where the scenario is important, else with a few."""
    of_all_files = FULL or scenario.important
    assert run(scenario, releases if of_all_files else few, tmp_path).outcome.problems() == []


@pytest.mark.parametrize(
    ("version", "scenario"),
    [
        pytest.param(version, scenario, id=f"{version}-{scenario.name}")
        for version in EARLIER
        # In the small size the first and the last of the few, but for the oldest version.
        for scenario in (SCENARIOS if FULL else IMPORTANT if version == EARLIER[0] else ENDS)
    ]
    or [pytest.param("", None, marks=pytest.mark.skip("there is no earlier version"))],
)
def test_an_update_from_an_earlier_version_keeps_every_promise(
    version: str, scenario: Scenario, shared: Path, tmp_path: Path
) -> None:
    releases = earlier_and_this(shared / f"from-{version}", version)
    try:
        row = run(scenario, releases, tmp_path)
    except DOES_NOT_APPLY as missing:
        pytest.skip(f"{version}: {missing}")
    assert row.outcome.problems() == []


@each(WITHOUT_OWNERSHIP)
def test_the_promise_is_broken_without_the_ownership_lines(
    scenario: Scenario, shared: Path, tmp_path: Path
) -> None:
    """The scenarios can fail: it is these lines that keep the promise."""
    releases = this_and_next(shared / "without-ownership", few_without_ownership)
    assert run(scenario, releases, tmp_path).outcome.problems()


def few_without_ownership(repository: TemplateRepository) -> None:
    """Keep few files, and leave out the lines of copier.yml that leave the user's half alone."""
    configuration = repository.path / "copier.yml"
    text = configuration.read_text(encoding="utf-8")
    text, excluded = re.subn(r'  - "{% if _copier_operation.*\n', "", text)
    text, skipped = re.subn(r"_skip_if_exists:\n(  - .*\n)+", "", text)
    assert (excluded, skipped) == (3, 1)
    configuration.write_text(text, encoding="utf-8")
    keep_few(repository)


@each(RUNNING)
def test_a_service_runs_after_an_update(
    scenario: Scenario, releases: Releases, tmp_path: Path, postgres: Postgres
) -> None:
    """On the new chassis, with the half of the old release that its team has edited."""
    project = scenario.play(releases.render(FIRST, scenario.answers), tmp_path / "project")
    project.update(scenario.answers_at_update)
    service = Service(project.folder, Path(sys.executable)).install()
    assert service.run("alembic", "heads").check().count("(head)") == 1
    service.run("pytest", "--quiet").check()
    check_that_it_serves(service)
    if FULL or scenario.name == "everything at once":
        url = postgres.url(postgres.create_database())
        check_that_it_serves(service.with_environment(APP_DATABASE_URL=url))


def check_that_it_serves(service: Service) -> None:
    """Migrate, serve, and ask whether it is alive and ready."""
    service.cli("migrate").check()
    with service.serve() as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_lock_stays_good_when_only_code_of_the_chassis_changes(
    releases: Releases, tmp_path: Path
) -> None:
    """The new code runs after `uv sync --locked`, installed as it is in development and images."""
    project = create_project(releases.render(FIRST, {}), tmp_path / "project")
    service = Service(project.folder, Path(sys.executable)).install()
    project.commit("Lock")
    project.update()
    source = "import chassis, inspect; print(inspect.getsource(chassis))"
    for options in ([], ["--no-editable"]):
        service.uv("sync", "--locked", *options).check()
        assert WORDS in service.run("--no-sync", "python", "-c", source).check()
    assert "uv.lock" not in git(project.repository, "status", "--porcelain")


def test_an_edit_inside_the_chassis_that_merges_is_kept(project: Project) -> None:
    name = "chassis/src/chassis/app.py"
    project.replace(name, "def create_app(", "# Ours.\ndef create_app(")
    project.commit("Patch the chassis")
    project.update()
    assert "# Ours.\n" in project.read(name)
    assert WORDS in project.read(name)


def test_an_edit_inside_the_chassis_that_does_not_merge_is_a_conflict(project: Project) -> None:
    name = "chassis/src/chassis/app.py"
    project.append(name, "# Ours.\n")
    project.commit("Patch the chassis")
    project.update()
    assert name in git(project.repository, "ls-files", "--unmerged")
    assert f"both modified:   {name}" in git(project.repository, "status")
    assert {"# Ours.", f"# {WORDS}", "<<<<<<< before updating"} <= {
        *project.read(name).splitlines()
    }


def test_a_recopy_keeps_what_is_there_and_brings_back_what_was_deleted(
    releases: Releases, tmp_path: Path
) -> None:
    project = create_project(releases.render(FIRST, {}), tmp_path / "project")
    project.write("README.md", "# Ours\n")
    project.delete("Dockerfile")
    project.commit("Edit")
    before = tree(project.folder)
    copier.run_recopy(project.folder, defaults=True, overwrite=True, quiet=True, unsafe=False)
    after, fresh = tree(project.folder), tree(releases.render(NEXT, {}))
    chassis = {name for name in fresh if name.startswith("chassis/")}
    assert {name: after[name] for name in chassis} == {name: fresh[name] for name in chassis}
    kept = {name for name in before if not name.startswith("chassis/") and name != ANSWERS_FILE}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert {"Dockerfile", ADDED_FILE} <= after.keys() - before.keys()


def test_a_dirty_tree_is_refused_and_left_alone(project: Project) -> None:
    project.append("README.md", "Not committed.\n")
    before = tree(project.folder)
    with pytest.raises(UserMessageError, match="Please commit or stash your local changes"):
        project.update()
    assert tree(project.folder) == before


def test_a_service_outside_git_is_refused_and_left_alone(
    releases: Releases, tmp_path: Path
) -> None:
    folder = shutil.copytree(releases.render(FIRST, {}), tmp_path / "service")
    with pytest.raises(UserMessageError, match="only supported in git-tracked"):
        update(folder)
    assert tree(folder) == tree(releases.render(FIRST, {}))


def test_a_checkout_with_windows_line_endings_is_updated(
    releases: Releases, tmp_path: Path
) -> None:
    create_project(releases.render(FIRST, {}), tmp_path / "origin")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--config", "core.autocrlf=true", "origin", "clone")
    assert b"\r\n" in (clone / "README.md").read_bytes()
    before = tree(clone)
    update(clone)
    new = tree(releases.render(NEXT, {}) / "chassis")
    updated = tree(clone)
    for name, content in updated.items():
        if name.startswith("chassis/"):
            unix = content.replace(b"\r\n", b"\n")
            assert unix == new[name.removeprefix("chassis/")], name
        elif name != ANSWERS_FILE:
            assert content == before[name], name
    assert not git(clone, "ls-files", "--unmerged")


def copier_command(*arguments: str | Path, folder: Path) -> str:
    """Run copier as a user does, from a shell and with no `--trust`, and return what it says."""
    command = [sys.executable, "-m", "copier", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("scheme", ["", "git+file://"])
def test_the_commands_of_the_readme_need_no_trust(
    scheme: str, few: Releases, tmp_path: Path
) -> None:
    source = f"{scheme}{few.repository.path}"
    said = copier_command(
        "copy", "--defaults", "--vcs-ref", FIRST, source, "service", folder=tmp_path
    )
    assert "uv run my-service dev" in said
    service = tmp_path / "service"
    git(service, "init", "--quiet")
    commit(service, "Render")
    said = copier_command("update", "--defaults", folder=service)
    assert {"git status", "uv lock", "git add --all && git commit"} <= commands_of(said)
    assert tree(service / "chassis") == tree(few.render(NEXT, {}) / "chassis")
    commit(service, "Update")
    copier_command("update", "--defaults", folder=service)
    assert "working tree clean" in git(service, "status")


def commands_of(message: str) -> set[str]:
    """Read the commands of a message: each begins an indented line, before two spaces."""
    return {line.split("  ")[0] for line in re.findall(r"^  (\S.*)", message, re.MULTILINE)}


def test_a_copy_costs_what_a_bare_template_does_and_an_update_three_times_that(
    template: Releases, releases: Releases, tmp_path: Path
) -> None:
    """Counted, because a busy machine stretches times: copier.yml adds little to Copier's work.

    An update renders three times, and starts the processes of a merge.
    """
    rendered = template.render(FIRST, {})
    assert len(tree(rendered)) <= MOST_FILES
    bare = bare_template(template, tmp_path / "bare")
    answers = Project(rendered, rendered).answers
    with counted() as least:
        render(bare.path, tmp_path / "least", answers, ref=FIRST)
    with counted() as copied:
        render(template.repository.path, tmp_path / "copy", ref=FIRST)
    project = create_project(releases.render(FIRST, {}), tmp_path / "project")
    with counted() as updated:
        project.update()
    assert copied["texts"] <= 1.05 * least["texts"]
    assert copied["processes"] == least["processes"]
    assert updated["texts"] <= 3.2 * least["texts"]
    assert updated["processes"] <= 150


def bare_template(template: Releases, folder: Path) -> TemplateRepository:
    """Release the same files with a copier.yml that asks and leaves out nothing."""
    bare = create_repository(folder)
    shutil.copytree(template.repository.template, bare.template)
    (folder / "copier.yml").write_text("_subdirectory: template\n")
    bare.release(FIRST)
    return bare


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the texts that are rendered and the processes that are started."""
    counts: Counter[str] = Counter()

    def count(owner: type, name: str, what: str) -> None:
        original = getattr(owner, name)

        def counting(*arguments: Any, **more: Any) -> Any:
            counts[what] += 1
            return original(*arguments, **more)

        patch.setattr(owner, name, counting)

    with pytest.MonkeyPatch.context() as patch:
        count(Template, "render", "texts")
        count(subprocess.Popen, "__init__", "processes")
        yield counts


def test_a_template_without_tags_is_updated_from_commit_to_commit(tmp_path: Path) -> None:
    template = untagged_template(tmp_path)
    service = untagged_service(template, tmp_path)
    (template.template / "chassis" / "NEWS.md").write_text("News.\n")
    commit(template.path, "News")
    update(service)
    assert (service / "chassis" / "NEWS.md").is_file()


def test_a_service_of_an_untagged_template_is_updated_to_the_first_tag(tmp_path: Path) -> None:
    template = untagged_template(tmp_path)
    service = untagged_service(template, tmp_path)
    (template.template / "chassis" / "NEWS.md").write_text("News.\n")
    template.release(FIRST)
    update(service)
    assert (service / "chassis" / "NEWS.md").is_file()
    assert f"_commit: {FIRST}\n" in (service / ANSWERS_FILE).read_text()


def untagged_template(folder: Path) -> TemplateRepository:
    """Commit the work tree as a template that was never released."""
    template = create_repository(folder / "template")
    copy_work_tree(template.path)
    keep_few(template)
    commit(template.path, "Not a release")
    return template


def untagged_service(template: TemplateRepository, folder: Path) -> Path:
    """Render a service of a template that was never released, and commit it."""
    return create_project(render(template.path, folder / "render"), folder / "service").folder
