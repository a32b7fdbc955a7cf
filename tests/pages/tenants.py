"""The guide's page of tenants: its text in a service, whose own tests pass; its roles' SQL runs."""

import re
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.models.trial import Databases
from tests.pages.service import add_tables, run
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/tenants.md"


def test_the_services_own_tools_and_tests_pass(service: Path) -> None:
    policies = service / "src/my_service/migrations/versions/secure_orders.py"
    later = policies.rename(service / "policies")
    add_tables(service, "add_orders")
    later.rename(policies)
    for arguments in (["ruff", "format", "--diff"], ["ruff", "check"], ["mypy"]):
        run(service, *arguments)
    for engine in ("sqlite", "postgres"):
        run(service, "pytest", "--quiet", "--numprocesses=0", "--database", engine, "tests")


def test_the_role_of_the_page_may_use_tables_that_come_later(databases: Databases) -> None:
    (block,) = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    name = databases.server.create_database()
    role, *grants = block.splitlines()
    databases.server.execute(role)
    engine = create_engine(
        databases.server.url(name, "postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        for statement in (*grants, "CREATE TABLE later (id serial PRIMARY KEY)"):
            connection.execute(text(statement))
    engine.dispose()
    inserted = "SET ROLE my_service_app; INSERT INTO later DEFAULT VALUES RETURNING id"
    assert "1" in databases.server.execute(inserted, name).split()
