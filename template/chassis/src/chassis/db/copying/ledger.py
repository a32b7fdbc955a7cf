"""What is kept in PostgreSQL while a copy is under way, so that it can go on after a kill."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import MetaData, Sequence

from .encoder import Fingerprint
from .errors import CopyError
from .plan import TablePair
from .source import quote_name
from .target import SequenceOwner, Target

NAME = "chassis_copy"

# What stands in the way of rows, as statements that take it away and that make it again: foreign
# keys, also those that refer to a copied table, and triggers. An owner may do all of this.
_OBSTACLES = """
    SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
        format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname,
            pg_get_constraintdef(oid))
            || coalesce(format('; COMMENT ON CONSTRAINT %%I ON %%s IS %%L', conname,
                conrelid::regclass, obj_description(oid, 'pg_constraint')), '')
    FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
        AND (conrelid = ANY(%(tables)s::regclass[]) OR confrelid = ANY(%(tables)s::regclass[]))
    UNION ALL
    SELECT format('ALTER TABLE %%s DISABLE TRIGGER %%I', tgrelid::regclass, tgname),
        format('ALTER TABLE %%s ENABLE %%s TRIGGER %%I', tgrelid::regclass,
            CASE tgenabled WHEN 'A' THEN 'ALWAYS' ELSE '' END, tgname)
    FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
        AND tgrelid = ANY(%(tables)s::regclass[])
"""


@dataclass(frozen=True)
class Entry:
    """A table: what it has in the file, and how many of its rows are copied."""

    expected: Fingerprint
    copied: int


class Ledger:
    """The table `chassis_copy`: statements that end the copy, and the state of each table.

    Rows and their number are committed together. The database has no revision meanwhile, so that
    no service is ready on the half of its data.
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def exists(self) -> bool:
        """Return whether a copy is under way."""
        return bool(self._target.read("SELECT to_regclass(%s)", NAME)[0][0])

    def create(self) -> None:
        """Make the table."""
        self._target.execute(
            f"CREATE TABLE IF NOT EXISTS {NAME} (kind text, name text, rows bigint, "
            "checksum numeric, copied bigint, PRIMARY KEY (kind, name))"
        )

    def drop(self) -> None:
        """Remove the table."""
        self._target.execute(f"DROP TABLE IF EXISTS {NAME}")

    def read_tables(self) -> dict[str, Entry]:
        """Return the state of each table; none before the first row."""
        if not self.exists:
            return {}
        query = f"SELECT name, rows, checksum, copied FROM {NAME} WHERE kind = 'table'"
        return {
            name: Entry(Fingerprint(rows, int(checksum)), copied)
            for name, rows, checksum, copied in self._target.read(query)
        }

    def read_statements(self) -> list[str]:
        """Return the statements that end the copy."""
        rows = self._target.read(f"SELECT name FROM {NAME} WHERE kind = 'statement' ORDER BY name")
        return [statement for (statement,) in rows]

    def refuse_other_version(self, version: tuple[str, str]) -> None:
        """Raise CopyError if the copy that is under way began at another revision of the file."""
        if _set_version(version) not in self.read_statements():
            raise CopyError(
                f"the file is at revision {version[1]}, and was at another when this copy began: "
                "copy into a new database"
            )

    def begin_anew(self) -> None:
        """Let `begin` empty all tables."""
        self._target.execute(f"UPDATE {NAME} SET rows = -1 WHERE kind = 'table'")

    def begin(self, expected: Mapping[str, Fingerprint], version: tuple[str, str]) -> None:
        """Take away what stands in the way, and empty each table that is not begun as it is now."""
        with self._target.driver.transaction():
            self.create()
            known = self.read_tables()
            self._remove_obstacles(list(expected), version)
            stale = [name for name, entry in known.items() if entry.expected != expected.get(name)]
            new = [name for name in expected if name not in known]
            if stale or new:
                self._target.execute(f"TRUNCATE {', '.join(map(quote_name, stale + new))}")
            for name in stale:
                self._target.execute(f"DELETE FROM {NAME} WHERE kind = 'table' AND name = %s", name)
            for name in expected.keys() & {*stale, *new}:
                self._target.execute(
                    f"INSERT INTO {NAME} VALUES ('table', %s, %s, %s, 0)",
                    name,
                    expected[name].rows,
                    expected[name].checksum,
                )

    def add_copied(self, name: str, rows: int) -> None:
        """Count rows that are copied in the same transaction."""
        self._target.execute(
            f"UPDATE {NAME} SET copied = copied + %s WHERE kind = 'table' AND name = %s", rows, name
        )

    def finish(self, statements: Iterable[str]) -> None:
        """Make again what was taken away, and end the copy."""
        with self._target.driver.transaction():
            for statement in (*self.read_statements(), *statements):
                self._target.execute(statement)
            self.drop()

    def _remove_obstacles(self, tables: Iterable[str], version: tuple[str, str]) -> None:
        found = self._target.driver.execute(
            _OBSTACLES.encode(), {"tables": [quote_name(name) for name in tables]}
        ).fetchall()
        if self._target.has_rows(version[0]):
            found.append((f"DELETE FROM {quote_name(version[0])}", _set_version(version)))
        for remove, restore in found:
            self._target.execute(remove)
            self._target.execute(
                f"INSERT INTO {NAME} (kind, name) VALUES ('statement', %s) ON CONFLICT DO NOTHING",
                restore,
            )


def _set_version(version: tuple[str, str]) -> str:
    revision = version[1].replace("'", "''")
    return f"INSERT INTO {quote_name(version[0])} (version_num) VALUES ('{revision}')"


def find_model_sequences(
    models: Iterable[MetaData], pairs: Iterable[TablePair]
) -> list[SequenceOwner]:
    """Return table, column and sequence of models whose values Python asks a sequence for."""
    copied = {(pair.name, column.name) for pair in pairs for column in pair.columns}
    return [
        (table.name, column.name, quote_name(column.default.name))
        for one in models
        for table in one.tables.values()
        for column in table.columns
        if isinstance(column.default, Sequence) and (table.name, column.name) in copied
    ]


def write_sequence_values(
    owners: Iterable[SequenceOwner], pairs: Iterable[TablePair], counters: Mapping[str, int]
) -> list[str]:
    """Return the statements that let each sequence go on after the rows of all its tables."""
    sources = {pair.name: pair.source.name for pair in pairs}
    highest: dict[str, list[str]] = {}
    for table, column, sequence in owners:
        if table in sources:
            given = counters.get(sources[table], 0)
            highest.setdefault(sequence, []).append(
                f"(SELECT greatest(max({quote_name(column)}), {given}) FROM {quote_name(table)})"
            )
    statements = []
    for sequence, values in highest.items():
        literal = "'" + sequence.replace("'", "''") + "'"
        statements.append(
            f"SELECT setval({literal}, highest) FROM (SELECT greatest({', '.join(values)}) "
            f"AS highest) AS found, pg_sequence WHERE seqrelid = to_regclass({literal}) "
            "AND highest BETWEEN seqmin AND seqmax"
        )
    return statements
