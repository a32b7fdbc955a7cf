"""A look at what new revisions do beside traffic, before they do it."""

import logging
import os
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...address.settings import DatabaseSettings
from ..authoring.failures import describe_failure
from ..scripts import alembic_config, read_revisions, read_scripts
from .dangers import ALL_RULES, SQUAWK_RULES, Danger, drop_harmless, find_own_dangers
from .new_revisions import describe_refusal, find_new_revisions
from .squawk import find_squawk, run_squawk
from .statements import Statement, read_statements

if TYPE_CHECKING:
    from alembic.script import Script

logger = logging.getLogger(__name__)

_HOW_TO_ALLOW = "# lint: allow RULE: REASON"
_ALLOWANCE = re.compile(r"#\s*lint:\s*(?:allow\s+(\S+):\s*\S)?")


@dataclass(frozen=True)
class Finding:
    """What a line of a revision should not do."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{Path(self.path).name}, line {self.line}: {self.message}"


def lint_migrations(
    package: str, settings: DatabaseSettings, after: str | None = None
) -> list[Finding]:
    """Return what new revisions would do to the traffic of a PostgreSQL database.

    They are those after the revision `after`, else after the one in `alembic.ini`, else those that
    Git's main branch does not have. What a comment in its revision allows is left out.
    Raise alembic.util.CommandError for an unknown revision.
    """
    config = alembic_config(package, settings)
    new = find_new_revisions(read_scripts(config), after)
    if new is None:
        logger.warning(
            "the revisions are not linted, as Git tells of no main branch%s: fetch it, or name the "
            "last revision that is deployed, --lint-after or lint_after in alembic.ini",
            describe_refusal(Path(read_scripts(config).versions)),
        )
        return []
    scripts = read_revisions(config)
    statements, failures = read_statements(package, settings, scripts, new)
    for script, error in failures:
        if script.revision in new:
            logger.warning(
                "not linted from there on, a revision asks%s", describe_failure(error, config)
            )
    dangers = _find_dangers(statements, new)
    found = [one for script in scripts if script.revision in new for one in _judge(script, dangers)]
    logger.info("new revisions, linted: %d", len(new))
    if found:
        logger.warning("what is right here is allowed in its revision: %s", _HOW_TO_ALLOW)
    if os.environ.get("GITHUB_ACTIONS"):
        for finding in found:
            print(_format_annotation(finding))
    return found


def _find_dangers(statements: Sequence[Statement], new: Set[str]) -> list[Danger]:
    """Look at new statements; the others tell what there was before."""
    ours = [one for one in statements if one.revision.revision in new]
    created = {one.table for one in ours if one.matches("CREATE TABLE")}
    dangers = list(find_own_dangers(ours, created))
    if program := find_squawk():
        found = [one for one in run_squawk(program, statements) if one[0] in ours]
        for one in (one for one, rule in found if rule == "syntax-error"):
            logger.warning("not linted, as Squawk can't read it: %s", one.shown)
        dangers += drop_harmless(found, statements, created)
    else:
        rules = ", ".join(SQUAWK_RULES)
        logger.warning("squawk-cli is not installed, so there is no lint for: %s", rules)
    return dangers


def _judge(script: "Script", dangers: list[Danger]) -> Iterator[Finding]:
    """Yield the dangers of a revision that it does not allow, and what is wrong in allowing."""
    allowed: set[str] = set()
    for number, line in enumerate(Path(script.path).read_text("utf-8").splitlines(), 1):
        if comment := _ALLOWANCE.search(line):
            allowed.add(comment[1])
            if comment[1] not in ALL_RULES:
                yield Finding(script.path, number, _describe_comment(comment[1]))
    for one, rule in sorted(dangers, key=lambda danger: danger[0].line):
        if one.revision.revision == script.revision and rule not in allowed:
            what = f"{rule}, {one.shown}" if one.sql else rule
            yield Finding(script.path, one.line, f"{what}: {ALL_RULES[rule]}")


def _describe_comment(rule: str | None) -> str:
    if rule is None:
        return f"a lint comment has a rule and a reason: {_HOW_TO_ALLOW}"
    return f"there is no rule {rule} to allow: {', '.join(sorted(ALL_RULES))}"


def _format_annotation(finding: Finding) -> str:
    """Return the line that shows a finding at its place in a pull request on GitHub."""
    path = os.path.relpath(finding.path, os.environ.get("GITHUB_WORKSPACE", "."))
    message = finding.message.replace("%", "%25")
    return f"::error file={Path(path).as_posix()},line={finding.line},title=Migration::{message}"
