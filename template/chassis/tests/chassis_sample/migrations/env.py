"""The sample's migrations."""

from chassis.db import Base, DatabaseSettings, run_migrations

run_migrations(Base.metadata, DatabaseSettings)
