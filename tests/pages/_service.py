"""A rendered service that has what a page of the guide shows."""

import re
from pathlib import Path

FILE = re.compile(r"^`((?:\w+/)*\w+\.py)`([^\n]*):\n\n```python\n(.*?)^```", re.M | re.S)
TEST = re.compile(r"^A test[^\n]*:\n\n```python\n(.*?)^```", re.M | re.S)
PACKAGE = "my_service"


def write_files(page: Path, service: Path) -> list[Path]:
    """Write the page's files and its test into a service, and list its routers."""
    text = page.read_text(encoding="utf-8")
    written = []
    for name, note, code in FILE.findall(text):
        file = service / (name if name.startswith("tests/") else f"src/{PACKAGE}/{name}")
        file.parent.mkdir(exist_ok=True)
        if "beside what is there" in note:
            code = _put_beside(file.read_text(encoding="utf-8"), code)
        file.write_text(code, encoding="utf-8")
        written.append(file)
        if name.startswith("routers/"):
            _register(file)
    for code in TEST.findall(text):
        written.append(service / "tests" / f"test_{page.stem}.py")
        written[-1].write_text(code, encoding="utf-8")
    return written


def _put_beside(there: str, code: str) -> str:
    """Put the code's imports before those that are there, and the rest of it at the end."""
    docstring, end, there = there.partition('"""\n\n')
    imports, _, rest = code.partition("\n\n\n")
    return f"{docstring}{end}{imports}\n{there}\n\n{rest}"


def _register(router: Path) -> None:
    file = router.with_name("__init__.py")
    text = file.read_text(encoding="utf-8")
    text = text.replace("import items", f"import items, {router.stem}")
    text = text.replace("items.router,", f"items.router,\n    {router.stem}.router,")
    file.write_text(text, encoding="utf-8")
