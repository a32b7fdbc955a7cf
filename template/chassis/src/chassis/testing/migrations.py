"""The fixture that tries a service's migrations."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ..db.address.settings import DatabaseSettings
from ..db.address.urls import BackendName

if TYPE_CHECKING:
    from . import Service


@pytest.fixture
def check_migrations(
    service: "Service[Any]", empty_database_settings: DatabaseSettings
) -> Callable[[], None]:
    """Return a function that rehearses the migrations on this run's engine, as `migrate --check`.

    What is wrong fails the test, a line each. Linting is left to that command.
    """
    from alembic.util import CommandError

    from ..db.migrations.authoring import check

    def check_on_engine() -> None:
        backend = empty_database_settings.database_target.backend
        engine: BackendName = "sqlite" if backend == "sqlite" else "postgres"
        try:
            check.check_migrations(service.package, empty_database_settings, engine=engine)
        except CommandError as error:
            pytest.fail(str(error), pytrace=False)

    return check_on_engine
