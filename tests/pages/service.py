"""The guide's pages for a service as it is rendered: together in few, its own tools pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.pages._service import write_files
from tests.repository import ROOT

# Two of them have a router of the same name.
PAGES = ("metrics outgoing_calls testing", "observability")


@pytest.mark.parametrize("pages", PAGES)
def test_the_services_own_tools_have_nothing_to_say(
    rendered: Render, tmp_path: Path, pages: str
) -> None:
    service = shutil.copytree(rendered(), tmp_path / "service")
    for page in pages.split():
        write_files(ROOT / f"template/chassis/docs/{page}.md", service)
    # What is put beside something has its imports in no order.
    run(service, "ruff", "check", "--quiet", "--fix", "--select=I")
    for arguments in (["ruff", "format", "--diff"], ["ruff", "check"], ["mypy"]):
        run(service, *arguments)
    run(service, "pytest", "--quiet", "--numprocesses=0", "tests")


def run(service: Path, tool: str, *arguments: str) -> None:
    """Run a tool in the service's folder, as if it were installed there."""
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=service,
        env=os.environ | {"PYTHONPATH": str(service / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def add_tables(service: Path, revision: str) -> None:
    """Put what is beside something in order, and write the revision of a page's tables."""
    # What is put beside something has its imports in no order.
    run(service, "ruff", "check", "--quiet", "--fix", "--select=I")
    run(service, "ruff", "format", "--quiet", "src/my_service/models/__init__.py")
    run(service, "alembic", "upgrade", "head")
    run(service, "alembic", "revision", "--autogenerate", "-m", "add", "--rev-id", revision)
