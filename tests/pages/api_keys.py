"""The guide's page of API keys: its text in a service, whose own tests pass; its commands run."""

import os
import subprocess
import sys
from pathlib import Path

from tests.pages.service import add_tables, run
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/api_keys.md"


def test_the_services_own_tools_and_tests_pass(service: Path) -> None:
    add_tables(service, "add_api_keys")
    for arguments in (["ruff", "format", "--diff"], ["ruff", "check"], ["mypy"]):
        run(service, *arguments)
    for engine in ("sqlite", "postgres"):
        file = "tests/test_api_keys.py"
        run(service, "pytest", "--quiet", "--numprocesses=0", "--database", engine, file)


def test_its_commands_make_a_key_and_revoke_it(service: Path) -> None:
    run(service, "alembic", "upgrade", "head")
    made = use(service, "create-key", "till 4", "--scope", "reports:read")
    prefix = "_".join(made.stdout.split("_")[:2])
    assert len(made.stdout.strip()) == len(prefix) + 44
    assert use(service, "revoke-key", prefix).returncode == 0
    again = use(service, "revoke-key", prefix)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (
        1,
        f"Error: there is no key {prefix} that could be revoked",
    )


def use(service: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the service's own command."""
    return subprocess.run(
        [sys.executable, "-m", "my_service", *arguments],
        cwd=service,
        env=os.environ | {"PYTHONPATH": str(service / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
