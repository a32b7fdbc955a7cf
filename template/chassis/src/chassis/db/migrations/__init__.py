"""Migrations: Alembic's environment, and the commands that change or check a schema."""

from .environment import run_migrations

__all__ = ["run_migrations"]
