"""The guide's page of rate limits: its text in a service, tested with several processes."""

from pathlib import Path

from tests.pages.service import add_tables, run
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/rate_limits.md"


def test_the_services_own_tools_and_tests_pass(service: Path) -> None:
    add_tables(service, "add_rate_limits")
    for arguments in (["ruff", "format", "--diff"], ["ruff", "check"], ["mypy"]):
        run(service, *arguments)
    for engine in ("sqlite", "postgres"):
        file = "tests/test_rate_limits.py"
        run(service, "pytest", "--quiet", "--numprocesses=0", "--database", engine, file)
