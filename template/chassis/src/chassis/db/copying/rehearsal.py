"""The rows in temporary tables of PostgreSQL, which finds there what it would refuse."""

from collections.abc import Iterable
from typing import NamedTuple

from psycopg.errors import ProgramLimitExceeded

from .plan import KEYS_SHOWN, TablePair
from .source import quote_name
from .target import OUR_TABLES, Target

# Names are those that the server quotes; a table's temporary one is named after its OID. An entry
# of a B-tree may have 2,704 bytes, which is known once its values are compressed: those that may
# have more are tried.
_RULES = f"""
    WITH ours AS (
        SELECT c.oid, c.relname AS name, 'pg_temp.chassis_' || c.oid AS copy
        {OUR_TABLES}
        WHERE to_regclass('pg_temp.chassis_' || c.oid) IS NOT NULL
    ), trees AS (
        SELECT ours.*, i.relname AS tree, indisunique,
            substring(pg_get_indexdef(i.oid) FROM ' USING btree .*') AS definition,
            (SELECT string_agg(format('coalesce(pg_column_size(%s), 0)',
                pg_get_indexdef(i.oid, attnum, false)), ' + ')
                FROM pg_attribute WHERE attrelid = i.oid AND attlen < 0) AS size,
            coalesce(pg_get_expr(indpred, indrelid), 'true') AS predicate,
            coalesce(to_jsonb(x) ->> 'indnullsnotdistinct', '') = 'true' AS takes_one_null,
            ARRAY(SELECT pg_get_indexdef(i.oid, place, false)
                FROM generate_series(1, indnkeyatts) AS place ORDER BY place) AS keys
        FROM ours JOIN pg_index x ON indrelid = ours.oid
        JOIN pg_class i ON i.oid = indexrelid JOIN pg_am m ON m.oid = i.relam AND amname = 'btree'
    ), links AS (
        SELECT ours.*, conname, confrelid::regclass AS parent,
            coalesce(to_regclass('pg_temp.chassis_' || confrelid), confrelid::regclass) AS parents,
            ARRAY(SELECT format('child.%I', attname) FROM unnest(conkey) WITH ORDINALITY AS e(n)
                JOIN pg_attribute ON attrelid = conrelid AND attnum = n
                ORDER BY ordinality) AS columns,
            ARRAY(SELECT format('parent.%I', attname) FROM unnest(confkey) WITH ORDINALITY AS e(n)
                JOIN pg_attribute ON attrelid = confrelid AND attnum = n
                ORDER BY ordinality) AS referred
        FROM ours JOIN pg_constraint ON conrelid = ours.oid
            AND contype = 'f' AND conparentid = 0 AND convalidated
    )
    SELECT name, array_to_string(keys, ', '), format('too long for the index %s', tree),
        'shorten it, or change the index in a migration',
        format('SELECT chassis_row FROM %s WHERE %s AND %s > 2600', copy, predicate, size),
        definition
    FROM trees WHERE size IS NOT NULL
    UNION ALL
    SELECT name, array_to_string(keys, ', '),
        format('the same values twice, where %s is unique,', tree),
        'make them differ, or delete all rows but one',
        -- Distinct keys are counted first, which is faster than to group all rows.
        format('WITH keyed AS NOT MATERIALIZED (SELECT * FROM %s WHERE %s AND (%s OR ROW(%s) '
            'IS NOT NULL)) SELECT chassis_row FROM (SELECT chassis_row, count(*) OVER '
            '(PARTITION BY %4$s) AS same FROM keyed) AS grouped WHERE same > 1 '
            'AND (SELECT count(*) > count(DISTINCT (%4$s)) FROM keyed)',
            copy, predicate, takes_one_null::text, array_to_string(keys, ', ')), NULL
    FROM trees WHERE indisunique
    UNION ALL
    SELECT name, '', format('the CHECK %s does not hold', conname),
        'correct the row, or drop the CHECK in a migration',
        format('SELECT chassis_row FROM %s WHERE NOT (%s)', copy, pg_get_expr(conbin, conrelid)),
        NULL
    FROM ours JOIN pg_constraint ON conrelid = ours.oid AND contype = 'c'
    UNION ALL
    SELECT name, replace(array_to_string(columns, ', '), 'child.', ''),
        format('no row of %s that it refers to (%s)', parent, conname),
        'add the parent, set the reference to NULL, or delete the row',
        format('SELECT chassis_row FROM %s AS child WHERE ROW(%s) IS NOT NULL '
            'AND NOT EXISTS (SELECT FROM %s AS parent WHERE (%2$s) = (%4$s))',
            copy, array_to_string(columns, ', '), parents, array_to_string(referred, ', ')),
        NULL
    FROM links
    ORDER BY 1, 2, 3
"""


class Rule(NamedTuple):
    """What a constraint or an index demands, and the query for the rows that break it.

    If there is a `trial`, they may break it: the end of the statement that makes the index.
    """

    table: str
    column: str
    problem: str
    cure: str
    query: str
    trial: str | None


class Rehearsal:
    """Temporary tables without constraints; a row has the number there that it has in the file."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tables: dict[str, str] = {}

    def create(self, pairs: Iterable[TablePair]) -> None:
        """Make the tables, where each column may be NULL: what must not be is found before."""
        known = self._target.read_columns()
        for pair in pairs:
            table = quote_name(pair.name)
            number = self._target.read("SELECT to_regclass(%s)::oid", table)[0][0]
            self._tables[pair.name] = copy = f"pg_temp.chassis_{number}"
            required = [one.name for one in known[pair.name] if one.is_not_null]
            changes = [f"ALTER {quote_name(name)} DROP NOT NULL" for name in required]
            changes.append("ADD chassis_row bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
            self._target.execute(f"CREATE TABLE {copy} (LIKE {table} INCLUDING GENERATED)")
            self._target.execute(f"ALTER TABLE {copy} {', '.join(changes)}")

    def write(self, pair: TablePair, chunks: Iterable[list[bytes]], first: int) -> None:
        """Write lines of COPY, of which the first is the row of this number, and drop them.

        Raise psycopg.Error if the server refuses one; it has none of them then.
        """
        table = self._tables[pair.name]
        sequence = "pg_get_serial_sequence(%s, 'chassis_row')"
        self._target.read(f"SELECT setval({sequence}, %s, false)", table, first)
        with (
            self._target.driver.cursor() as cursor,
            cursor.copy(f"COPY {table} ({name_columns(pair)}) FROM STDIN".encode()) as copy,
        ):
            for lines in chunks:
                copy.write(b"\n".join(lines))
                copy.write(b"\n")
                # A large row is not kept while the next one is read.
                lines.clear()

    def read_rules(self) -> list[Rule]:
        """Return what the tables that are copied demand of the rows."""
        return [Rule(*facts) for facts in self._target.read(_RULES)]

    def find_misfits(self, rule: Rule) -> list[tuple[int, int]]:
        """Return the numbers of rows that break a rule, the first of them, each with the count."""
        if rule.trial:
            numbers = self._find_too_long(rule)
            return [(number, len(numbers)) for number in numbers[:KEYS_SHOWN]]
        return self._target.read(
            f"SELECT chassis_row, count(*) OVER () FROM ({rule.query}) AS found "
            f"ORDER BY 1 LIMIT {KEYS_SHOWN}"
        )

    def _find_too_long(self, rule: Rule) -> list[int]:
        candidates = self._target.read(f"{rule.query} ORDER BY 1")
        if not candidates:
            return []
        copy, numbers = self._tables[rule.table], []
        self._target.execute(f"CREATE TABLE pg_temp.chassis_trial (LIKE {copy})")
        self._target.execute(f"CREATE INDEX ON pg_temp.chassis_trial {rule.trial}")
        for (number,) in candidates:
            try:
                self._target.execute(
                    f"INSERT INTO pg_temp.chassis_trial SELECT * FROM {copy} "
                    f"WHERE chassis_row = {number}"
                )
            except ProgramLimitExceeded:
                numbers.append(number)
        self._target.execute("DROP TABLE pg_temp.chassis_trial")
        return numbers

    def insert(self, pair: TablePair, after: int, rows: int) -> None:
        """Insert so many rows after one into the table that they are meant for."""
        names = name_columns(pair)
        self._target.execute(
            f"INSERT INTO {quote_name(pair.name)} ({names}) OVERRIDING SYSTEM VALUE "
            f"SELECT {names} FROM {self._tables[pair.name]} WHERE chassis_row > {after} "
            f"AND chassis_row <= {after + rows} ORDER BY chassis_row"
        )


def name_columns(pair: TablePair) -> str:
    """Return the names of the columns that are copied, quoted."""
    return ", ".join(quote_name(column.name) for column in pair.columns)
