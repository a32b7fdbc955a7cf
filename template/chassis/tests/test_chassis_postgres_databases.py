"""Databases to try things on go, whoever is at work on them."""

from collections.abc import Iterator
from threading import Timer
from uuid import uuid4

import pytest
from chassis_logins import administered
from chassis_stock import only_on
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from chassis import ChassisSettings
from chassis.db.postgres.databases import drop_database


@pytest.fixture
def admin(settings: ChassisSettings) -> Iterator[Connection]:
    only_on("postgres", settings)
    with administered(settings) as connection:
        yield connection


def test_a_role_drops_a_database_that_a_superusers_process_is_about_to_leave(
    admin: Connection, settings: ChassisSettings
) -> None:
    """As an autovacuum does, which is no process that a role may force out."""
    name = f"scratch_{uuid4().hex[:8]}"
    admin.execute(text(f"CREATE ROLE {name}"))
    admin.execute(text(f"CREATE DATABASE {name} OWNER {name}"))
    url, arguments = settings.database_target.migration()
    there = make_url(url).set(database=name)
    engine = create_engine(there, connect_args=arguments, poolclass=NullPool)
    timer = Timer(0.5, engine.connect().close)
    timer.start()
    admin.execute(text(f"SET ROLE {name}"))
    try:
        drop_database(admin, name)
    finally:
        timer.join()
        admin.execute(text("RESET ROLE"))
    names = text("SELECT count(*) FROM pg_database WHERE datname = :name")
    assert admin.scalar(names, {"name": name}) == 0
    admin.execute(text(f"DROP ROLE {name}"))
