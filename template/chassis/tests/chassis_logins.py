"""Roles that a PostgreSQL server lets in by their password only."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from chassis.db import DatabaseSettings

GROUP = "chassis_password_roles"
RULES = f"local all +{GROUP} scram-sha-256\nhost all +{GROUP} all scram-sha-256\n"


@contextmanager
def administered(settings: DatabaseSettings) -> Iterator[Connection]:
    """Give a connection in no transaction to a database, as its owner."""
    url, arguments = settings.database_target.migration()
    engine = create_engine(
        url, connect_args=arguments, isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    with engine.connect() as connection:
        yield connection


@contextmanager
def role(admin: Connection, password: str) -> Iterator[tuple[str, str]]:
    """Make a role and a database of its own, both with names that must be quoted everywhere."""
    _ask_for_passwords(admin)
    user = name = f"é@:/?#%41 '\"{uuid4().hex[:8]}"
    _execute(admin, "CREATE ROLE %I LOGIN PASSWORD %L IN ROLE %I", user, password, GROUP)
    _execute(admin, "CREATE DATABASE %I OWNER %I", name, user)
    try:
        yield user, name
    finally:
        _execute(admin, "DROP DATABASE %I WITH (FORCE)", name)
        _execute(admin, "DROP ROLE %I", user)


def _execute(admin: Connection, statement: str, *names: str) -> None:
    numbered = {f"name_{number}": name for number, name in enumerate(names)}
    places = ", ".join(f"CAST(:{name} AS text)" for name in numbered)
    quoted = admin.scalar(text(f"SELECT format('{statement}', {places})"), numbered)
    assert isinstance(quoted, str)
    admin.exec_driver_sql(quoted.replace("%", "%%"))


def _ask_for_passwords(admin: Connection) -> None:
    """Put the rules above all others, unless another test has done so."""
    file = Path(admin.scalar(text("SHOW hba_file")) or "")
    if not os.access(file, os.W_OK):
        pytest.skip("the rules of this server can't be changed")
    admin.execute(text("SELECT pg_advisory_lock(1)"))
    if RULES not in file.read_text(encoding="utf-8"):
        admin.exec_driver_sql(f"CREATE ROLE {GROUP}")
        file.write_text(RULES + file.read_text(encoding="utf-8"), encoding="utf-8")
        admin.execute(text("SELECT pg_reload_conf()"))
        # The server reads the file some time after it said so.
        time.sleep(0.2)
    admin.execute(text("SELECT pg_advisory_unlock(1)"))
