"""The files that a page of the guide shows, written as a package."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.models.trial import Package, write_package

FILE = re.compile(r"^`((?:\w+/)?\w+\.py)`[^\n]*:\n\n```python\n(.*?)^```", re.M | re.S)


@contextmanager
def write_page(page: Path, folder: Path) -> Iterator[Package]:
    """Write a service's package with the files of a page, importable while it is needed."""
    with write_package(folder, "") as package:
        files = dict(FILE.findall(page.read_text(encoding="utf-8")))
        models = files.get("models/__init__.py", "")
        files["models/__init__.py"] = f"from chassis.db import Base\n{models}"
        for name, text in files.items():
            file = package.folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        (package.folder / "models.py").unlink()
        (package.folder / "routers/__init__.py").touch()
        yield package
