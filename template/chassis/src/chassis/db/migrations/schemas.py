"""Schemas of PostgreSQL: made before the first table in them."""

from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.schema import CreateSchema


def add_missing_schemas(context: Any, revision: Any, directives: list[Any]) -> None:
    """Have a generated revision make the schemas of its tables that the database has not.

    A downgrade keeps them: others may have put something in.
    """
    from alembic.operations.ops import CreateTableOp, ExecuteSQLOp

    for script in directives:
        for upgrade in script.upgrade_ops_list:
            made = [step for step in upgrade.ops if isinstance(step, CreateTableOp)]
            named = {step.schema for step in made if step.schema}
            if named:
                missing = named.difference(inspect(context.connection).get_schema_names())
                quote = context.dialect.identifier_preparer.quote_schema
                upgrade.ops[:0] = [
                    ExecuteSQLOp(f"CREATE SCHEMA IF NOT EXISTS {quote(name)}")
                    for name in sorted(missing)
                ]


def create_schema(connection: Connection, name: str) -> None:
    """Make a schema that is not there; a role without the right may use one that is."""
    if not inspect(connection).has_schema(name):
        connection.execute(CreateSchema(name, if_not_exists=True))
