"""Databases that are made to be removed again."""

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from ..errors import sqlstate

_OBJECT_IN_USE = "55006"


def drop_database(connection: Connection, name: str) -> None:
    """Drop a database; by force only if others hold it, as an autovacuum can't be forced out."""
    try:
        connection.execute(text(f"DROP DATABASE {name}"))
    except OperationalError as error:
        if sqlstate(error) != _OBJECT_IN_USE:
            raise
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
