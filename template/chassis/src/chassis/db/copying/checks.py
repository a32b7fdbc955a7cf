"""What PostgreSQL would refuse of a file: each row is shown to it, and nothing is changed."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256

import psycopg

from .encoder import Fingerprint, RowEncoder
from .errors import CORRECT, REFUSALS, RefusedValueError
from .plan import KEYS_SHOWN, CopyPlan, Findings, TablePair
from .rehearsal import Rehearsal, Rule
from .source import Row, SourceFile, decode_any, quote_name
from .target import Target

Advance = Callable[[int], None]

_REFUSALS = (RefusedValueError, UnicodeEncodeError, *REFUSALS)
# What quick_check says of values, each of which is looked at anyway.
_ABOUT_VALUES = (" value in ", "CHECK constraint failed in ")


def check_file(source: SourceFile, findings: Findings) -> None:
    """Find damage of the file."""
    for line in source.read_damage():
        if not any(one in line for one in _ABOUT_VALUES):
            findings.add(
                str(source.file), "", f"SQLite finds damage: {line}", "restore a backup of the file"
            )


class Checker:
    """Writes rows to a rehearsal; what is refused is a finding."""

    def __init__(
        self, source: SourceFile, reader: Target, rehearsal: Rehearsal, findings: Findings
    ) -> None:
        self._source, self._reader = source, reader
        self._rehearsal, self._findings = rehearsal, findings
        self._file_digest = sha256()

    @property
    def file_digest(self) -> str:
        """Return what is the same for a file that has the same rows."""
        return self._file_digest.hexdigest()

    def check_values(self, pair: TablePair, advance: Advance) -> Fingerprint:
        """Return the fingerprint of a table's rows, which all are in the rehearsal then."""
        encoder = RowEncoder(pair.columns, self._reader.normalise)
        found = Fingerprint()
        self._file_digest.update(pair.name.encode())

        def encode_chunks() -> Iterator[list[bytes]]:
            nonlocal found
            for rows in self._source.read_chunks(pair.source, pair.source_columns, encoder.texts):
                lines = encoder.encode(rows)
                found = found.add(lines)
                self._file_digest.update(b"\n".join(lines))
                self._file_digest.update(b"\n")
                # A large row is not kept while the next one is read.
                rows.clear()
                advance(len(lines))
                yield lines

        # The server reads rows while the next ones are encoded.
        with suppress(sqlite3.OperationalError, *_REFUSALS):
            self._rehearsal.write(pair, encode_chunks(), 1)
            return found
        return self._check_chunks(pair, encoder, advance, found.rows)

    def _check_chunks(
        self, pair: TablePair, encoder: RowEncoder, advance: Advance, shown: int
    ) -> Fingerprint:
        found = Fingerprint()
        names = (*pair.source_columns, *pair.source.key)
        for rows in self._source.read_chunks(pair.source, names, encoder.texts, decode_any):
            first = found.rows + 1
            try:
                lines = encoder.encode(rows)
                found = found.add(lines)
                self._rehearsal.write(pair, [lines], first)
            except _REFUSALS:
                self._find_refusals(pair, encoder, rows, first)
                found = Fingerprint(first - 1 + len(rows))
            advance(max(0, found.rows - shown))
            shown = max(shown, found.rows)
            rows.clear()
        return found

    def check_constraints(self, plan: CopyPlan) -> None:
        """Find the rows that break a constraint, or do not fit into an index."""
        pairs = {pair.name: pair for pair in plan.pairs}
        for rule in self._rehearsal.read_rules():
            self._find_misfits(pairs[rule.table], rule)

    def _find_refusals(
        self, pair: TablePair, encoder: RowEncoder, rows: Sequence[Row], first: int
    ) -> None:
        """Find the values that are refused. The rehearsal gets the rows without them."""
        for number, row in enumerate(rows, first):
            rest = list(row)
            for place, refusal in encoder.find_refusals(row):
                rest[place] = None
                self._add_refusal(pair, row, pair.columns[place].name, refusal)
            try:
                self._rehearsal.write(pair, [encoder.encode([rest], with_null=True)], number)
            except REFUSALS as error:
                refused = RefusedValueError(f"refused by PostgreSQL, {describe(error)},", CORRECT)
                self._add_refusal(pair, row, "", refused)

    def _add_refusal(
        self, pair: TablePair, row: Row, column: str, refusal: RefusedValueError
    ) -> None:
        names = zip(pair.columns, pair.source_columns, strict=True)
        own = next((name for one, name in names if one.name == column), "")
        cure = refusal.cure.format(table=quote_name(pair.source.name), column=quote_name(own))
        finding = self._findings.add(pair.name, column, refusal.problem, cure)
        finding.count += 1
        if len(finding.keys) < KEYS_SHOWN:
            finding.keys.append(_show_key(pair, row[len(pair.columns) :]))

    def _find_misfits(self, pair: TablePair, rule: Rule) -> None:
        try:
            numbers = self._rehearsal.find_misfits(rule)
        except REFUSALS as error:
            problem = f"{rule.problem}, {describe(error)}"
            self._findings.add(pair.name, rule.column, problem, rule.cure)
            return
        if numbers:
            finding = self._findings.add(pair.name, rule.column, rule.problem, rule.cure)
            finding.count = numbers[0][1]
            keys = (self._source.read_key(pair.source, number) for number, _ in numbers)
            finding.keys = [_show_key(pair, key) for key in keys]


def describe(error: psycopg.Error) -> str:
    """Return the kind of a server's error; its message may hold values."""
    return f"{type(error).__name__} ({error.sqlstate})"


def find_rounded(source: SourceFile, pair: TablePair) -> Iterator[str]:
    """Yield notes on numbers that PostgreSQL will round."""
    for column, name in zip(pair.columns, map(quote_name, pair.source_columns), strict=True):
        if column.kind != "numeric" or column.modifier == -1:
            continue
        scale = column.scale
        # The second condition is the last one in short: it takes a third of the time.
        query = (
            f"SELECT count(*) FROM {quote_name(pair.source.name)} WHERE typeof({name}) = 'real' "
            f"AND {name} * 1e{scale} <> CAST({name} * 1e{scale} AS INTEGER) "
            f"AND abs({name} - round({name}, {scale})) > 1e-12 * abs({name})"
        )
        if number := source.read(query)[0][0]:
            yield (
                f"{pair.name}.{column.name}: {number:,} values have more than {scale} decimals, "
                "and are rounded, as PostgreSQL does"
            )


def _show_key(pair: TablePair, values: Sequence[object]) -> str:
    return " ".join(
        f"{name}={_show_value(value)}" for name, value in zip(pair.source.key, values, strict=True)
    )


def _show_value(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    shown = text.encode("utf-8", "backslashreplace").decode()
    printable = "".join(one if one.isprintable() else "?" for one in shown)
    return printable if len(printable) <= 60 else f"{printable[:57]}..."
