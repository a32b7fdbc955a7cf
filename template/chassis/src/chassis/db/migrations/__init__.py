"""Migrations: Alembic's environment, and the commands that change or check a schema."""
