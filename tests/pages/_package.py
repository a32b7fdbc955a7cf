"""A page of the guide whose blocks are a package's models, a router, and answers in JSON."""

import re
from pathlib import Path

from tests.model_table import lint
from tests.models.trial import Package


def check_blocks(package: Package, page: Path) -> None:
    """Check that every block of the page is run, and lint it."""
    blocks = re.findall(r"^ *```(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert blocks.count("python") == len(list(package.folder.glob("models/*.py"))) + 1
    assert sorted({*blocks}) == ["json", "python"]
    for file in package.folder.glob("[mr]o*/*.py"):
        lint(file.read_text(encoding="utf-8"))
