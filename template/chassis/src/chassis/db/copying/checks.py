"""What PostgreSQL would refuse of a file: each value is looked at, and nothing is changed."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import psycopg
from sqlalchemy import inspect

from .encoder import Fingerprint, RowEncoder
from .errors import RefusedValueError
from .plan import KEYS_SHOWN, CopyPlan, Findings, TablePair
from .source import Row, SourceFile, quote_name
from .target import ForeignKey, Target, TargetColumn, UniqueKey

Advance = Callable[[int], None]

# How SQLite compares values as PostgreSQL does, of types that it has not.
_COMPARED_AS = {"uuid": "lower(replace({}, '-', ''))", "citext": "lower({})"}
_SHOWN_BY_QUICK_CHECK = ("NULL value in ", "CHECK constraint failed in ", "NUMERIC value in ")


def check_values(
    source: SourceFile, target: Target, pair: TablePair, findings: Findings, advance: Advance
) -> Fingerprint:
    """Return the fingerprint of a table's rows; each value that would be refused is a finding."""
    encoder = RowEncoder(pair.columns)
    found = Fingerprint()
    for rows in source.read_chunks(pair.source, pair.source_columns, unbounded=encoder.texts):
        try:
            data = encoder.encode(rows, target.normalise)
        except (RefusedValueError, UnicodeEncodeError, psycopg.Error):
            for row, column, refusal in encoder.find_refusals(rows, target.normalise):
                _add_refusal(findings, pair, row, column, refusal)
        else:
            found = found.add(encoder.split_lines(data))
        advance(len(rows))
    return found


def check_constraints(
    source: SourceFile, target: Target, plan: CopyPlan, findings: Findings
) -> Iterator[str]:
    """Find rows that break a constraint; yield notes on values that PostgreSQL will round."""
    for key in target.read_unique_keys():
        if pair := plan.find_pair(key.table):
            _find_duplicates(source, pair, key, findings)
    for foreign_key in target.read_foreign_keys():
        if pair := plan.find_pair(foreign_key.table):
            _find_orphans(source, pair, plan.find_pair(foreign_key.parent), foreign_key, findings)
    for pair in plan.pairs:
        _find_broken_checks(source, pair, findings)
        yield from _find_rounded(source, pair)


def check_file(source: SourceFile, findings: Findings) -> None:
    """Find damage of the file."""
    for (line,) in source.read("PRAGMA quick_check(5)"):
        if line != "ok" and not line.startswith(_SHOWN_BY_QUICK_CHECK):
            findings.add(
                str(source.file), "", f"SQLite finds damage: {line}", "restore a backup of the file"
            )


def _add_refusal(
    findings: Findings, pair: TablePair, row: Row, column: TargetColumn, refusal: RefusedValueError
) -> None:
    place = pair.columns.index(column)
    cure = refusal.cure.format(
        table=quote_name(pair.source.name), column=quote_name(pair.source_columns[place])
    )
    finding = findings.add(pair.name, column.name, refusal.problem, cure)
    finding.count += 1
    if len(finding.keys) < KEYS_SHOWN:
        finding.keys.append(_show_key(pair, row[len(pair.columns) :]))


def _find_duplicates(
    source: SourceFile, pair: TablePair, key: UniqueKey, findings: Findings
) -> None:
    columns = _find_columns(pair, key.columns)
    if columns is None:
        return
    kinds = [column.kind for column in pair.columns if column.name in key.columns]
    grouped = [
        _COMPARED_AS.get(kind, "{}").format(name) for kind, name in zip(kinds, columns, strict=True)
    ]
    present = " AND ".join(f"{name} IS NOT NULL" for name in columns)
    condition = "" if key.nulls_not_distinct else f"WHERE {present}"
    rows = source.read(
        f"SELECT count(*) OVER (), min({_key_of(pair)[0]}), max({_key_of(pair)[0]}) "
        f"FROM {quote_name(pair.source.name)} {condition} "
        f"GROUP BY {', '.join(grouped)} HAVING count(*) > 1 LIMIT {KEYS_SHOWN}"
    )
    if rows:
        finding = findings.add(
            pair.name,
            ", ".join(key.columns),
            f"the same values twice, where {key.name} is unique",
            "make them differ, or delete all rows but one",
        )
        finding.count = rows[0][0]
        finding.keys = [f"{_show_value(one)} and {_show_value(other)}" for _, one, other in rows]


def _find_orphans(
    source: SourceFile,
    pair: TablePair,
    parent: TablePair | None,
    key: ForeignKey,
    findings: Findings,
) -> None:
    columns = _find_columns(pair, key.columns, "child")
    others = parent and _find_columns(parent, key.parent_columns, "parent")
    if columns is None:
        return
    condition = " AND ".join(f"{name} IS NOT NULL" for name in columns)
    if parent and others:
        same = " AND ".join(f"{one} = {other}" for one, other in zip(others, columns, strict=True))
        table = quote_name(parent.source.name)
        condition += f" AND NOT EXISTS (SELECT 1 FROM {table} AS parent WHERE {same})"
    _find_rows(
        source,
        pair,
        condition,
        findings,
        ", ".join(key.columns),
        f"no row of {key.parent} that it refers to ({key.name})",
        "add the parent, set the reference to NULL, or delete the row",
    )


def _find_broken_checks(source: SourceFile, pair: TablePair, findings: Findings) -> None:
    for check in inspect(source.connection).get_check_constraints(pair.source.name):
        # A check may call what only the service's own connections have.
        with suppress(sqlite3.OperationalError):
            _find_rows(
                source,
                pair,
                f"NOT ({check['sqltext']})",
                findings,
                "",
                f"the CHECK {check['name'] or check['sqltext']} does not hold",
                "correct the row, or drop the CHECK in a migration",
            )


def _find_rounded(source: SourceFile, pair: TablePair) -> Iterator[str]:
    for column, name in zip(pair.columns, map(quote_name, pair.source_columns), strict=True):
        if column.kind != "numeric" or column.modifier == -1:
            continue
        scale = column.scale
        query = (
            f"SELECT count(*) FROM {quote_name(pair.source.name)} WHERE typeof({name}) = 'real' "
            f"AND abs({name} - round({name}, {scale})) > 1e-12 * abs({name})"
        )
        if number := source.read(query)[0][0]:
            yield (
                f"{pair.name}.{column.name}: {number:,} values have more than {scale} decimals, "
                "and are rounded, as PostgreSQL does"
            )


def _find_rows(
    source: SourceFile,
    pair: TablePair,
    condition: str,
    findings: Findings,
    column: str,
    problem: str,
    cure: str,
) -> None:
    rows = source.read(
        f"SELECT count(*) OVER (), {', '.join(_key_of(pair))} "
        f"FROM {quote_name(pair.source.name)} AS child WHERE {condition} LIMIT {KEYS_SHOWN}"
    )
    if rows:
        finding = findings.add(pair.name, column, problem, cure)
        finding.count = rows[0][0]
        finding.keys = [_show_key(pair, row[1:]) for row in rows]


def _find_columns(pair: TablePair, names: Sequence[str], alias: str = "") -> list[str] | None:
    """Return the file's names of columns, or None if it has not all of them."""
    known = {
        column.name: quote_name(name)
        for column, name in zip(pair.columns, pair.source_columns, strict=True)
    }
    prefix = f"{alias}." if alias else ""
    found = [f"{prefix}{known[name]}" for name in names if name in known]
    return found if len(found) == len(names) else None


def _key_of(pair: TablePair) -> list[str]:
    return [quote_name(name) for name in pair.source.key]


def _show_key(pair: TablePair, values: Sequence[object]) -> str:
    return " ".join(
        f"{name}={_show_value(value)}" for name, value in zip(pair.source.key, values, strict=True)
    )


def _show_value(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    shown = text.encode("utf-8", "backslashreplace").decode()
    printable = "".join(one if one.isprintable() else "?" for one in shown)
    return printable if len(printable) <= 60 else f"{printable[:57]}..."
