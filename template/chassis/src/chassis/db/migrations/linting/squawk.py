"""Squawk, a linter of PostgreSQL's SQL: a program in a wheel, run where it is installed."""

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from typing import Any

from alembic.util import CommandError

from .statements import Statement


def find_squawk() -> str | None:
    """Return where the program is, None if it is not installed."""
    return shutil.which("squawk", path=sysconfig.get_path("scripts")) or shutil.which("squawk")


def run_squawk(program: str, statements: Sequence[Statement]) -> Iterator[tuple[Statement, str]]:
    """Yield each statement that breaks a rule, with the rule's name.

    A statement that Squawk can't read breaks `syntax-error`; the others are judged without it.
    Raise alembic.util.CommandError if the program fails.
    """
    found = _judge(program, statements)
    unread = [statement for statement, rule in found if rule == "syntax-error"]
    if unread:
        yield from found
        found = _judge(program, [one for one in statements if one not in unread])
    yield from found


def _judge(program: str, statements: Sequence[Statement]) -> list[tuple[Statement, str]]:
    lines: list[str] = []
    owners: list[Statement] = []
    transaction: int | None = None
    for one in statements:
        changes = one.transaction != transaction
        commit = ["COMMIT;"] if changes and transaction is not None else []
        begin = ["BEGIN;"] if changes and one.transaction is not None else []
        transaction = one.transaction
        text = [*commit, *begin, *one.sql.splitlines()]
        lines += text
        owners += [one] * len(text)
    return [(owners[row["line"]], row["rule_name"]) for row in _run(program, "\n".join(lines))]


def _run(program: str, sql: str) -> list[dict[str, Any]]:
    # Rules are allowed in a revision, with a reason, and not in a file of Squawk's.
    command = [program, "--reporter", "json", "--config", os.devnull]
    ended = subprocess.run(
        command, input=sql, capture_output=True, encoding="utf-8", check=False, timeout=60
    )
    try:
        rows: list[dict[str, Any]] = json.loads(ended.stdout)
    except ValueError as error:
        raise CommandError(f"{program} fails: {ended.stderr.strip()}") from error
    return rows
