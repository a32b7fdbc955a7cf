"""Tell Alembic which tables and which database are this service's."""

from bank.models import Base
from chassis.db import DatabaseSettings, run_migrations

run_migrations(Base.metadata, DatabaseSettings)
