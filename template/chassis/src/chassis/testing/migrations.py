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
    service: "Service[Any]", database_settings: DatabaseSettings
) -> Callable[[], None]:
    """Return a function that tries the migrations as `migrate --check` does, on this run's engine.

    What is wrong fails the test, a line each.
    """
    from alembic.util import CommandError

    from ..db.migrations.authoring import check

    def check_on_engine() -> None:
        backend = database_settings.database_target.backend
        engine: BackendName = "sqlite" if backend == "sqlite" else "postgres"
        try:
            check.check_migrations(service.package, database_settings, engine=engine)
        except CommandError as error:
            pytest.fail(str(error), pytrace=False)

    return check_on_engine
