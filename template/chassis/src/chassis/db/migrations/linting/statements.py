"""The statements of revisions for PostgreSQL, each with the line of its revision that makes it."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import count
from traceback import walk_stack
from typing import TYPE_CHECKING, Any

from ...address.settings import DatabaseSettings
from ...address.urls import parse_url
from ..options import read_environment
from ..scripts import alembic_config, run_environment
from ..sql_text import LITERAL

if TYPE_CHECKING:
    from alembic.script import Script

_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_START = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
# What stands between semicolons, but not those of literals, comments and functions' bodies.
_STATEMENT = re.compile(
    rf"(?:{LITERAL}|{_NAME}|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$|[^;])+", re.DOTALL
)
_TABLE = re.compile(
    rf"{_START}(?:(?:CREATE|ALTER|DROP|REINDEX|TRUNCATE) TABLE|UPDATE|DELETE FROM|INSERT INTO|"
    r"CREATE (?:UNIQUE )?INDEX\b.*?\bON)\s+(?:IF (?:NOT )?EXISTS |ONLY )*"
    rf"({_NAME}(?:\.{_NAME})?)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement that a revision runs."""

    sql: str
    revision: "Script"
    line: int
    transaction: int | None
    """The number of its transaction; None if it commits by itself."""

    @property
    def table(self) -> str | None:
        """The table that it makes, changes or fills."""
        found = _TABLE.match(self.sql)
        return found[1].replace('"', "") if found else None

    @property
    def shown(self) -> str:
        """The statement in one line, cut short."""
        return f"{' '.join(self.sql.split()).removesuffix(';'):.100}"

    def matches(self, pattern: str) -> bool:
        """Return whether the statement begins with a pattern, in letters of either case."""
        return re.match(rf"{_START}(?:{pattern})", self.sql, re.IGNORECASE | re.DOTALL) is not None


Failures = list[tuple["Script", Exception]]


def read_statements(
    package: str, settings: DatabaseSettings, scripts: Sequence["Script"], new: Collection[str]
) -> tuple[list[Statement], Failures]:
    """Return the statements of upgrades, and which revisions can't be read without a database.

    Those that are `new` run in one transaction unless `env.py` asks for one each.
    """
    target = parse_url("postgresql://localhost/lint", "migrate --check")
    config = alembic_config(package, settings.with_migration_target(target))
    is_shared = not read_environment(config).options["transaction_per_migration"]
    recorder = _Recorder()
    failures: Failures = []

    def record(heads: object, context: object) -> list[Any]:
        continues = False
        for script in scripts:
            recorder.start(script, continues=continues and script.revision in new)
            continues = is_shared and script.revision in new
            try:
                script.module.upgrade()
            except Exception as error:
                failures.append((script, error))
        recorder.revision = None
        return []

    config.output_buffer = recorder
    run_environment(config, record, as_sql=True)
    return recorder.statements, failures


class _Recorder(StringIO):
    """What Alembic writes statements to."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[Statement] = []
        self.revision: Script | None = None
        self._transaction: int | None = None
        self._numbers = count()

    def start(self, revision: "Script", *, continues: bool) -> None:
        """Begin a revision, in a transaction of its own unless it continues the last one."""
        self.revision = revision
        if not continues:
            self._transaction = next(self._numbers)

    def write(self, text: str) -> int:
        """Note statements; `autocommit_block` ends a transaction and begins the next."""
        for found in _STATEMENT.finditer(text):
            sql = found[0].strip()
            if sql == "COMMIT":
                self._transaction = None
            elif sql == "BEGIN":
                self._transaction = next(self._numbers)
            elif sql and self.revision is not None:
                line = _find_line(self.revision.path)
                one = Statement(f"{sql};", self.revision, line, self._transaction)
                self.statements.append(one)
        return len(text)


def _find_line(path: str) -> int:
    """Return the line that a revision's file is at now, as it runs; 1 if it does not."""
    lines = (line for frame, line in walk_stack(None) if frame.f_code.co_filename == path)
    return next(lines, 1)
