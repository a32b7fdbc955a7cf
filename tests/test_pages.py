"""The pages of the guide whose text is a service: each runs in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.postgres import Postgres, give
from tests.repository import ROOT

FOLDER = Path(__file__).parent / "pages"
GUIDE = sorted((ROOT / "template/chassis").glob("**/*.md"))
PAGES = sorted({*FOLDER.glob("[!_]*.py")} - {FOLDER / "conftest.py"})


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.stem)
def test_a_page_runs_as_it_is_written(page: Path, shared: Path, postgres: Postgres) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", str(page)]
    given = os.environ | {SHARED: str(shared)} | give(postgres)
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("page", GUIDE, ids=lambda file: file.stem)
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    for name, anchor in re.findall(r"\]\(([^)#\s:]*)#?([^)\s:]*)\)", page.read_text("utf-8")):
        target = page.parent / name if name else page
        assert target.exists(), name
        headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.M) if anchor else []
        slugs = [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings]
        assert not anchor or anchor in slugs, f"{name}#{anchor}"
