"""Tell Alembic which tables and which database are this service's."""

from chassis.db import DatabaseSettings, run_migrations
from bank.models import Base

run_migrations(Base.metadata, DatabaseSettings())
