"""The guide's pages of jobs and webhooks: rendered services with their text, on both engines."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.pages._service import PACKAGE, write_files
from tests.pages.service import run
from tests.repository import ROOT


@pytest.mark.parametrize("page", ["jobs", "webhooks"])
def test_the_page_makes_a_service_whose_tests_pass_on_both_engines(
    rendered: Render, tmp_path: Path, page: str
) -> None:
    service = Path(shutil.copytree(rendered(), tmp_path / "service"))
    file = ROOT / f"template/chassis/docs/{page}.md"
    blocks = re.findall("^```python", file.read_text(encoding="utf-8"), re.MULTILINE)
    written = write_files(file, service)
    assert len(written) == len(blocks)
    run(service, PACKAGE, "migrate")
    run(service, "alembic", "revision", "--autogenerate", "-m", "jobs")
    # What is put beside something has its imports in no order, and lines between.
    run(service, "ruff", "check", "--quiet", "--fix", "--select=I")
    run(service, "ruff", "format", "--quiet", f"src/{PACKAGE}/models")
    for arguments in (["ruff", "format", "--diff"], ["ruff", "check"], ["mypy"]):
        run(service, *arguments)
    tests = [str(each) for each in written if each.parent.name == "tests"]
    for engine in ("sqlite", "postgres"):
        run(service, "pytest", "--quiet", "--numprocesses=0", f"--database={engine}", *tests)
