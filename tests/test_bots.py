"""What update bots do with a service: Dependabot locks with the few files that it fetches."""

import fnmatch
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Render
from tests.service import Finished, Service


def lock(folder: Path) -> Finished:
    """Lock as Dependabot does."""
    return Service(folder, Path(sys.executable)).uv("lock")


@pytest.fixture
def fetched(rendered: Render, tmp_path: Path) -> Path:
    """The files that Dependabot fetches: the service's pyproject.toml, and those of its paths."""
    service = rendered()
    project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
    for source in (".", *(one["path"] for one in project["tool"]["uv"]["sources"].values())):
        (tmp_path / source).mkdir(exist_ok=True)
        shutil.copy(service / source / "pyproject.toml", tmp_path / source)
    return tmp_path


def test_the_lock_needs_no_other_file_of_the_chassis(fetched: Path) -> None:
    lock(fetched).check()


def test_the_lock_fails_where_the_chassis_is_excluded(fetched: Path) -> None:
    """The reason that stands in dependabot.yml."""
    shutil.rmtree(fetched / "chassis")
    said = lock(fetched)
    assert said.code != 0
    assert "Distribution not found at: file://" in " ".join(said.output.split())


def test_dependabot_excludes_no_folder_that_the_lock_needs(rendered: Render) -> None:
    text = (rendered() / ".github/dependabot.yml").read_text(encoding="utf-8")
    updates: list[dict[str, Any]] = yaml.safe_load(text)["updates"]
    python = next(update for update in updates if update["package-ecosystem"] == "uv")
    needed = ["chassis", "chassis/pyproject.toml"]
    excluded = python.get("exclude-paths", [])
    assert not [name for name in needed for rule in excluded if fnmatch.fnmatch(name, rule)]
    assert python["allow"] == [{"dependency-type": "all"}]
    assert python["ignore"] == [{"dependency-name": "service-chassis"}]
