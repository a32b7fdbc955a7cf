"""What the chassis's own tests share: settings without a service, on the chosen database."""

import pytest

from chassis.db import DatabaseSettings
from chassis.settings import ChassisSettings


@pytest.fixture
def settings(database_settings: DatabaseSettings) -> ChassisSettings:
    """Give settings on an empty database of the test's own; no service means no migrations."""
    return ChassisSettings(
        database_url=database_settings.database_url, secrets_dir=database_settings.secrets_dir
    )
