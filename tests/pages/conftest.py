"""What each page of the guide runs on: its own text as a package, or in a rendered service."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chassis.testing.repeated_selects import RepeatedSelects

from tests.conftest import Render
from tests.model_table import open_databases
from tests.models.pages import write_page
from tests.models.trial import Databases, Package
from tests.pages._service import write_files
from tests.postgres import Postgres


def pytest_configure(config: pytest.Config) -> None:
    """Have the guard that a service's tests have."""
    config.pluginmanager.register(RepeatedSelects())


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Iterator[Databases]:
    with open_databases(postgres) as databases:
        yield databases


@pytest.fixture(scope="module")
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Package]:
    """Write the files of the module's page."""
    with write_page(request.module.PAGE, tmp_path_factory.mktemp("service")) as package:
        yield package


@pytest.fixture(scope="module")
def service(
    request: pytest.FixtureRequest, rendered: Render, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A rendered service that has the files of the module's page, importable."""
    page: Path = request.module.PAGE
    folder = shutil.copytree(rendered(), tmp_path_factory.mktemp("page") / "service")
    blocks = re.findall("^```python", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(write_files(page, folder)) == len(blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "src")
        patch.chdir(folder)
        yield folder
