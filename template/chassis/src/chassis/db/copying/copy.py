"""The copy itself: check, copy, compare; each step can be repeated after a kill."""

import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol, TypedDict

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..migrations.options import MigrationEnvironment
from ..migrations.revisions import read_code_revisions
from ..migrations.upgrade import upgrade
from .checks import Advance, Checker, check_file, find_rounded
from .comparison import open_comparison
from .encoder import Fingerprint
from .endpoints import find_file, find_revision, open_reader, open_target
from .errors import CopyError
from .ledger import Ledger, find_model_sequences, write_sequence_values
from .plan import CopyPlan, Findings, TablePair, find_name, plan_copy
from .rehearsal import Rehearsal
from .source import SourceFile, SourceTable, open_source, quote_name
from .target import Target

_ROWS_IN_TRANSACTION = 50_000


class Track(Protocol):
    """Show a step while it runs, of so many rows; what it returns is told of more of them."""

    def __call__(self, step: str, rows: int) -> AbstractContextManager[Advance]: ...


class CopyOptions(TypedDict, total=False):
    """Options of the command: tables that have rows, a check alone, tables that stay behind."""

    overwrite: bool
    only_check: bool
    left_out: Collection[str]


@dataclass(frozen=True)
class CopyReport:
    """What was copied, and what a reader should know of what was not."""

    tables: int
    rows: int
    seconds: float
    notes: tuple[str, ...]


def copy_to_postgres(
    package: str,
    settings: DatabaseSettings,
    to: DatabaseTarget,
    *,
    track: Track,
    overwrite: bool = False,
    only_check: bool = False,
    left_out: Collection[str] = (),
) -> CopyReport:
    """Copy the configured SQLite file to a PostgreSQL database, or go on with a copy.

    Raise CopyError with all that is in the way, before the first row is written. Raise
    DatabaseSettingsError for other databases, and DatabaseUnavailableError if one can't be used.
    """
    started = time.monotonic()
    file = find_file(settings)
    there = settings.with_migration_target(to)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(file))
        code = read_code_revisions(package, settings)
        revision = find_revision(source, code)
        target = stack.enter_context(open_target(there))
        reader = stack.enter_context(open_reader(there))
        copy = _Copy(source, target, reader, track, code.environment, revision)
        tables = copy.read_tables(left_out)
        copy.prepare(tables, package, there, overwrite=overwrite)
        plan, expected = copy.check(tables, left_out)
        if only_check:
            copy.clean_up(plan)
        else:
            copy.copy_rows(plan, expected)
            copy.finish(plan)
    rows = sum(found.rows for found in expected.values())
    return CopyReport(len(plan.pairs), rows, time.monotonic() - started, plan.notes)


class _Copy:
    """The steps of a copy."""

    def __init__(
        self,
        source: SourceFile,
        target: Target,
        reader: Target,
        track: Track,
        environment: MigrationEnvironment,
        revision: str,
    ) -> None:
        self._source, self._target, self._reader, self._track = source, target, reader, track
        self._ledger = Ledger(target)
        self._rehearsal = Rehearsal(target)
        self._models = environment.metadata
        self._version = (environment.version_table, revision)
        self._is_ours = self._ledger.exists
        self._file_digest = ""

    @property
    def has_begun(self) -> bool:
        """Return whether a copy that was killed has left rows, or may have."""
        return bool(self._ledger.read_tables())

    def read_tables(self, left_out: Collection[str]) -> list[SourceTable]:
        """Return the file's tables but that of Alembic. Raise CopyError for an unknown name."""
        tables = [one for one in self._source.read_tables() if one.name != self._version[0]]
        for name in left_out:
            if name not in [one.name for one in tables]:
                raise CopyError(f"--skip {name}: the file has no such table")
        return tables

    def prepare(
        self,
        tables: Collection[SourceTable],
        package: str,
        settings: DatabaseSettings,
        *,
        overwrite: bool,
    ) -> None:
        """Bring the schema to the file's revision. Raise CopyError if it can't be brought there."""
        if self.has_begun:
            self._ledger.refuse_other_version(self._version)
            if overwrite:
                self._ledger.begin_anew()
            return
        filled = self._find_filled(tables)
        if filled and not self._is_ours and not overwrite:
            raise CopyError(
                f"the target is not empty, it has rows in {', '.join(filled)}: name an empty "
                "database, or let these tables be emptied first: --overwrite"
            )
        if not filled:
            # Rows that migrations make are not taken for somebody's.
            self._ledger.create()
            self._is_ours = True
        upgrade(package, settings, self._version[1])
        found = self._target.read(f"SELECT version_num FROM {quote_name(self._version[0])}")
        if found != [(self._version[1],)]:
            there = ", ".join(revision for (revision,) in found) or "none"
            raise CopyError(
                f"the target is at revision {there} and the file at {self._version[1]}: migrate "
                "the file (my-service migrate), or name an empty database"
            )

    def check(
        self, tables: Collection[SourceTable], left_out: Collection[str]
    ) -> tuple[CopyPlan, dict[str, Fingerprint]]:
        """Look at each value. Raise CopyError for those that PostgreSQL would refuse."""
        findings = Findings()
        check_file(self._source, findings)
        plan = plan_copy(self._source, self._target, findings, tables=tables, left_out=left_out)
        self._rehearsal.create(plan.pairs)
        checker = Checker(self._source, self._reader, self._rehearsal, findings)
        total = sum(self._source.count(pair.source) for pair in plan.pairs)
        with self._track("checking", total) as advance:
            expected = {
                pair.name: checker.check_values(pair, advance)
                for pair in plan.pairs
                if pair.columns
            }
            self._file_digest = checker.file_digest
            self._ledger.keep_only(self._file_digest)
            checker.check_constraints(plan)
        plan = CopyPlan(plan.pairs, (*plan.notes, *self._find_notes(plan)))
        self._source.refuse_change()
        if findings:
            self.clean_up(plan)
            lines = "\n".join(f"  {finding}" for finding in findings)
            raise CopyError(f"PostgreSQL would refuse this; no row was written:\n{lines}")
        return plan, expected

    def _find_notes(self, plan: CopyPlan) -> Iterator[str]:
        for pair in plan.pairs:
            yield from find_rounded(self._source, pair)
        for view in self._target.read_materialized_views():
            yield f"{view} is as it was before the copy: run REFRESH MATERIALIZED VIEW {view}"

    def clean_up(self, plan: CopyPlan) -> None:
        """Leave a target without rows: an empty schema."""
        if self._is_ours and not self.has_begun:
            if names := self._find_filled([pair.source for pair in plan.pairs]):
                self._target.execute(f"TRUNCATE {', '.join(map(quote_name, names))} CASCADE")
            self._ledger.drop()

    def copy_rows(self, plan: CopyPlan, expected: dict[str, Fingerprint]) -> None:
        """Copy what is not there, table by table, and compare all tables with the file's."""
        self._ledger.begin(expected, self._file_digest, self._version)
        state = self._ledger.read_tables()
        total = sum(found.rows for found in expected.values())
        with open_comparison(self._reader) as comparison:
            left = total - sum(state.values())
            with self._track("copying", left) as advance:
                for pair in plan.pairs:
                    rows = expected[pair.name].rows
                    self._copy_table(pair, state[pair.name], rows, advance)
                    comparison.begin_table(pair)
            with self._track("comparing", comparison.count_left(total)) as advance:
                comparison.end(expected, advance)

    def _copy_table(self, pair: TablePair, done: int, rows: int, advance: Advance) -> None:
        for after in range(done, rows, _ROWS_IN_TRANSACTION):
            more = min(_ROWS_IN_TRANSACTION, rows - after)
            with self._target.driver.transaction():
                self._rehearsal.insert(pair, after, more)
                self._ledger.add_copied(pair.name, more)
            self._source.refuse_change()
            advance(more)
        self._ledger.restore(pair.name)

    def finish(self, plan: CopyPlan) -> None:
        """Make constraints again, set the sequences, and end the copy."""
        counters = self._source.read_counters()
        sequences = [
            *self._target.read_sequences(),
            *find_model_sequences(self._models, plan.pairs),
        ]
        self._source.refuse_change()
        self._ledger.finish(write_sequence_values(sequences, plan.pairs, counters))

    def _find_filled(self, tables: Collection[SourceTable]) -> list[str]:
        known = self._target.read_columns()
        names = [name for one in tables if (name := find_name(one.name, known))]
        return [name for name in names if self._target.has_rows(name)]
