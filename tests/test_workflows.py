"""The workflows of this repository run what `.ci/run` can't, on versions that the tests know."""

from typing import Any

import pytest
import yaml

from tests.pythons import VERSIONS
from tests.repository import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read_jobs(name: str) -> dict[str, Any]:
    """Read a workflow's jobs."""
    loaded = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    return dict(loaded["jobs"])


def commands(job: dict[str, Any]) -> str:
    """Return the commands of a job's steps, one a line."""
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def test_every_python_runs_all_tests_and_finds_the_others() -> None:
    job = read_jobs("ci.yml")["test"]
    assert tuple(job["strategy"]["matrix"]["python"]) == VERSIONS
    options = [step.get("with", {}) for step in job["steps"]]
    [installed] = [option["python-version"] for option in options if "python-version" in option]
    assert tuple(installed.split()) == VERSIONS
    assert "bash .ci/run" in commands(job)


def test_the_chassis_runs_on_servers_that_are_older_than_the_embedded_one() -> None:
    job = read_jobs("ci.yml")["postgres"]
    assert job["strategy"]["matrix"]["postgres"] == ["15", "17"]
    assert job["services"]["postgres"]["image"] == "postgres:${{ matrix.postgres }}"
    assert "--database postgresql://" in commands(job)


def test_the_next_releases_of_packages_are_tried_on_both_databases() -> None:
    job = read_jobs("next.yml")["test"]
    assert job["env"]["UV_PRERELEASE"] == "allow"
    assert job["strategy"]["matrix"]["database"] == ["sqlite", "postgres"]
    assert "uv lock --upgrade" in commands(job)
    assert "pytest" in commands(job)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_only_and_ends_in_time(workflow: Any) -> None:
    loaded = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert loaded["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in loaded["jobs"].values())
