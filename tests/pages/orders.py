"""The guide's page of orders with lines: its text in a service, whose own tests pass."""

from pathlib import Path

from tests.pages.service import run
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/orders.md"


def test_the_services_own_tools_and_tests_pass(service: Path) -> None:
    # What is put beside something has its imports in no order.
    run(service, "ruff", "check", "--quiet", "--fix", "--select=I", "src")
    run(service, "ruff", "format", "--quiet", "src/my_service/models/__init__.py")
    run(service, "alembic", "upgrade", "head")
    run(service, "alembic", "revision", "--autogenerate", "-m", "add orders")
    for arguments in (["ruff", "format", "--diff"], ["ruff", "check"], ["mypy"]):
        run(service, *arguments)
    for engine in ("sqlite", "postgres"):
        run(service, "pytest", "--quiet", "--numprocesses=0", "--database", engine, "tests")
