"""A page of the guide whose blocks are a package's models, a router, and answers in JSON."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from chassis import ChassisSettings, create_app
from fastapi import APIRouter, FastAPI

from tests.model_table import lint
from tests.models.trial import ENGINES, Databases, Package


def check_blocks(package: Package, page: Path) -> None:
    """Check that every block of the page is run, and lint it."""
    blocks = re.findall(r"^ *```(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert blocks.count("python") == len(list(package.folder.glob("models/*.py"))) + 1
    assert sorted({*blocks}) == ["json", "python"]
    for file in package.folder.glob("[mr]o*/*.py"):
        lint(file.read_text(encoding="utf-8"))


def create_apps(
    package: Package, databases: Databases, name: str, *more: APIRouter
) -> Iterator[FastAPI]:
    """Make the page's service on each engine, with the tables of the revision that is written."""
    settings = {engine: databases.create(engine) for engine in ENGINES}
    lint(package.generate(settings["sqlite"], name))
    routers = [importlib.import_module(f"{package.name}.routers.{name}").router, *more]
    for each in settings.values():
        package.upgrade(each)
        assert package.drift(each) == ""
        fields = each.model_dump(exclude_unset=True)
        yield create_app(ChassisSettings(**fields), package=package.name, routers=routers)
