"""What each page of the guide runs on: its own text as a package, and both databases."""

from collections.abc import Iterator

import pytest

from tests.model_table import open_databases
from tests.models.pages import write_page
from tests.models.trial import Databases, Package


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    with open_databases() as databases:
        yield databases


@pytest.fixture(scope="module")
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Package]:
    """Write the files of the module's page."""
    with write_page(request.module.PAGE, tmp_path_factory.mktemp("service")) as package:
        yield package
