"""The pages of the guide whose text is a service: each runs in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import ROOT

FOLDER = Path(__file__).parent / "pages"
PAGES = sorted({*FOLDER.glob("[!_]*.py")} - {FOLDER / "conftest.py"})


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.stem)
def test_a_page_runs_as_it_is_written(page: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
