"""What must hold of a release, before it is tagged and where a commit is."""

from pathlib import Path

import pytest

from tests import manifest
from tests.release import CHASSIS, find_moves, find_obstacles, find_problems, list_tags
from tests.repository import (
    ROOT,
    TemplateRepository,
    commit,
    copy_work_tree,
    create_repository,
    earlier_versions,
    git,
)

TAG = "v1.2.3"


@pytest.fixture
def repository(tmp_path: Path) -> TemplateRepository:
    """The work tree, as it would be released."""
    repository = create_repository(tmp_path / "template")
    copy_work_tree(repository.path)
    write(repository, "src/chassis/__init__.py", '__version__ = "1.2.3"\n')
    write(repository, "CHANGELOG.md", "# Changelog\n\n## 1.2.3 (2026-11-27)\n\n- All.\n")
    commit(repository.path, "Release")
    return repository


def write(repository: TemplateRepository, name: str, text: str) -> None:
    """Write a file of the chassis, and the manifest."""
    path = repository.path / CHASSIS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    manifest.write(repository.path / CHASSIS)


def problems(repository: TemplateRepository, tag: str = TAG) -> str:
    """Say all that speaks against a release."""
    return "\n".join([*find_problems(repository.path, tag), *find_obstacles(repository.path, tag)])


def test_a_tagged_commit_is_what_its_tag_says() -> None:
    for tag in git(ROOT, "tag", "--points-at", "HEAD", "v*").split():
        assert [*find_problems(ROOT, tag)] == []


def test_no_path_of_the_chassis_was_the_other_of_file_and_folder() -> None:
    """Since the first commit: a service may be updated from any."""
    assert [*find_moves(ROOT, list_tags(ROOT) or earlier_versions())] == []


def test_a_release_that_is_ready_has_no_problem(repository: TemplateRepository) -> None:
    assert problems(repository) == ""


@pytest.mark.parametrize("tag", ["v1.2.4", "v1.2.3+acme.1", "v1.2.3rc1", "latest"])
def test_another_tag_than_the_version_is_refused(tag: str, repository: TemplateRepository) -> None:
    said = problems(repository, tag)
    assert f"the tag is {tag}, chassis.__version__ is 1.2.3" in said
    assert f"the first section of the changelog is 1.2.3, not {tag}" in said


def test_a_release_of_a_fork_has_a_local_version(repository: TemplateRepository) -> None:
    write(repository, "src/chassis/__init__.py", '__version__ = "1.2.3+acme.1"\n')
    write(repository, "CHANGELOG.md", "## [1.2.3+acme.1]: ours\n\n## 1.2.3\n")
    commit(repository.path, "Release")
    assert problems(repository, "v1.2.3+acme.1") == ""


def test_lines_that_no_release_names_are_refused(repository: TemplateRepository) -> None:
    write(repository, "CHANGELOG.md", "## Unreleased\n\n- More.\n\n## 1.2.3\n")
    assert "the first section of the changelog is Unreleased, not v1.2.3" in problems(repository)


def test_what_was_forgotten_is_named(repository: TemplateRepository) -> None:
    (repository.path / CHASSIS / "README.md").write_text("Ours.\n")
    git(repository.path, "tag", TAG)
    said = problems(repository).splitlines()
    assert [line.split(":")[0].split(",")[0] for line in said] == [
        "MANIFEST.sha256 is older than the files",
        "something is not committed",
        "v1.2.3 is there already",
    ]
    assert "tags begin with a v: v1.2.3" in problems(repository, "1.2.3")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("docs/pools", "docs/pools/README.md", "docs/pools is a file and a folder"),
        ("docs/pools/README.md", "docs/pools", "docs/pools is a file and a folder"),
        ("docs/Pools.md", "docs/pools.md", "docs/pools.md is written otherwise"),
        ("docs/pools.md", "docs/pool.md", ""),
        ("src/chassis/pool.py", "src/chassis/pool/__init__.py", ""),
    ],
)
def test_a_path_that_an_update_stumbles_over_is_named(
    before: str, after: str, says: str, repository: TemplateRepository
) -> None:
    write(repository, before, "Before.\n")
    commit(repository.path, "Before")
    git(repository.path, "tag", "v1.0.0")
    (repository.path / CHASSIS / before).unlink()
    for folder in (repository.path / CHASSIS / before).parents:
        if not any(folder.iterdir()):
            folder.rmdir()
    write(repository, after, "After.\n")
    commit(repository.path, "After")
    said = problems(repository)
    assert says in said if says else said == ""
