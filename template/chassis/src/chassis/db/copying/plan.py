"""Which table of the file becomes which of PostgreSQL, column by column, and what has no place."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from .source import SourceFile, SourceTable
from .target import Target, TargetColumn

KEYS_SHOWN = 20


@dataclass
class Finding:
    """Something that PostgreSQL would refuse, and the rows that have it."""

    table: str
    column: str
    problem: str
    cure: str
    count: int = 0
    keys: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        place = f"{self.table}.{self.column}" if self.column else self.table
        rows = ""
        if self.count:
            more = self.count - len(self.keys)
            keys = f"{', '.join(self.keys)}{f' and {more:,} more' if more else ''}"
            rows = f" in {self.count:,} row{'s' if self.count > 1 else ''} ({keys})"
        return f"{place}: {self.problem}{rows}; {self.cure}"


class Findings:
    """What is found, a line for each kind of it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], Finding] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())

    def add(self, table: str, column: str, problem: str, cure: str) -> Finding:
        """Return the finding of this kind, for its rows to be added."""
        new = Finding(table, column, problem, cure)
        return self._found.setdefault((table, column, problem), new)


@dataclass(frozen=True)
class TablePair:
    """A table of the file and the one that it becomes; the columns of both are in one order."""

    source: SourceTable
    name: str
    source_columns: tuple[str, ...]
    columns: tuple[TargetColumn, ...]


@dataclass(frozen=True)
class CopyPlan:
    """What is copied, and what a reader should know of what is not."""

    pairs: tuple[TablePair, ...]
    notes: tuple[str, ...]


def plan_copy(
    source: SourceFile,
    target: Target,
    findings: Findings,
    *,
    tables: Collection[SourceTable],
    left_out: Collection[str],
) -> CopyPlan:
    """Pair the tables and their columns by name; what has no place is a finding."""
    known = target.read_columns()
    pairs: list[TablePair] = []
    notes = [f"virtual table {name} is not copied" for name in source.read_virtual_tables()]
    for table in tables:
        if table.name in left_out:
            notes.append(f"table {table.name} is left out, as asked for")
        elif name := find_name(table.name, known):
            pairs.append(_pair_columns(source, table, name, known[name], findings))
        elif source.count(table):
            finding = findings.add(
                table.name,
                "",
                "the migrations make no such table on PostgreSQL",
                f"make it in a migration, drop it, or leave it out: --skip {table.name}",
            )
            finding.count = source.count(table)
        else:
            notes.append(f"table {table.name} is empty and not one of PostgreSQL's: left out")
    return CopyPlan(tuple(pairs), tuple(notes))


def find_name(name: str, known: Collection[str]) -> str | None:
    """Return the name that PostgreSQL has for one of the file: it folds those without quotes."""
    return next((one for one in (name, name.lower()) if one in known), None)


def _pair_columns(
    source: SourceFile,
    table: SourceTable,
    name: str,
    columns: list[TargetColumn],
    findings: Findings,
) -> TablePair:
    named = [column.name for column in columns]
    found = {find_name(column, named): column for column in table.columns}
    for unknown in table.columns:
        if not find_name(unknown, named):
            findings.add(
                name,
                unknown,
                "PostgreSQL's table has no such column",
                "drop it in a migration, or add it in one for PostgreSQL",
            )
    written = [column for column in columns if not column.is_generated]
    for column in written:
        is_needed = column.is_not_null and not column.has_default
        if column.name not in found and is_needed and source.count(table):
            findings.add(
                name,
                column.name,
                "the file's table has no such column, and it must not be NULL",
                "add it in a migration for SQLite, or give it a default on PostgreSQL",
            )
    copied = tuple(column for column in written if column.name in found)
    return TablePair(table, name, tuple(found[one.name] for one in copied), copied)
