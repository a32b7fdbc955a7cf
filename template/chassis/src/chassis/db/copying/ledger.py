"""What is kept in PostgreSQL while a copy is under way, so that it can go on after a kill."""

from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import MetaData, Sequence

from .errors import CopyError
from .plan import TablePair
from .source import quote_name
from .target import SequenceOwner, Target

NAME = "chassis_copy"

# What stands in the way of rows, as statements that take it away and that make it again. An owner
# may do all of this. Of every table: foreign keys, also those that refer to it, and triggers.
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
# Of one table: indexes, which are made in a fifth of the time once all rows are there. Primary keys
# stay, as do indexes that have more than their definition says.
_INDEXES = """
    SELECT CASE WHEN k.oid IS NULL THEN format('DROP INDEX %%s', i.oid::regclass)
            ELSE format('ALTER TABLE %%s DROP CONSTRAINT %%I', indrelid::regclass, conname) END,
        CASE WHEN k.oid IS NULL THEN pg_get_indexdef(i.oid)
            ELSE format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', indrelid::regclass, conname,
                pg_get_constraintdef(k.oid)) || coalesce(
                format('; COMMENT ON CONSTRAINT %%I ON %%s IS %%L', conname, indrelid::regclass,
                    obj_description(k.oid, 'pg_constraint')), '') END
            || coalesce(format('; COMMENT ON INDEX %%s IS %%L', i.oid::regclass,
                obj_description(i.oid, 'pg_class')), '')
    FROM pg_index JOIN pg_class i ON i.oid = indexrelid
    LEFT JOIN pg_constraint k ON conindid = i.oid AND contype IN ('p', 'u', 'x')
    WHERE indrelid = %(table)s::regclass AND contype IS DISTINCT FROM 'p' AND indisvalid
        AND contype IS DISTINCT FROM 'x' AND NOT indisclustered AND NOT indisreplident
        AND i.relkind = 'i' AND reltablespace = 0 AND (k.oid IS NULL OR reloptions IS NULL)
        AND NOT EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = i.oid AND attstattarget >= 0)
"""


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
            f"CREATE TABLE IF NOT EXISTS {NAME} "
            "(kind text, name text, copied bigint, statement text)"
        )

    def drop(self) -> None:
        """Remove the table."""
        self._target.execute(f"DROP TABLE IF EXISTS {NAME}")

    def read_tables(self) -> dict[str, int]:
        """Return how many rows of each table are copied; no table before the first row."""
        if not self.exists:
            return {}
        return dict(self._target.read(f"SELECT name, copied FROM {NAME} WHERE kind = 'table'"))

    def read_statements(self, table: str = "") -> list[str]:
        """Return the statements that end the copy, or that make the indexes of one table."""
        query = f"SELECT statement FROM {NAME} WHERE kind = 'statement' AND name = %s"
        return [statement for (statement,) in self._target.read(query, table)]

    def refuse_other_version(self, version: tuple[str, str]) -> None:
        """Raise CopyError if the copy that is under way began at another revision of the file."""
        if _set_version(version) not in self.read_statements():
            raise CopyError(
                f"the file is at revision {version[1]}, and was at another when this copy began: "
                "copy into a new database"
            )

    def begin_anew(self) -> None:
        """Let `keep_only` take the copy for one of another file."""
        self._target.execute(f"DELETE FROM {NAME} WHERE kind = 'file'")

    def keep_only(self, file_digest: str) -> None:
        """Give a copy up that began with another file: no rows, and all constraints again."""
        known = self.read_tables()
        query = f"SELECT FROM {NAME} WHERE kind = 'file' AND name = %s"
        if not known or self._target.read(query, file_digest):
            return
        with self._target.driver.transaction():
            self._target.execute(f"TRUNCATE {', '.join(map(quote_name, known))}")
            for name in (*known, ""):
                self.restore(name)
            self._target.execute(f"DELETE FROM {NAME}")

    def begin(self, tables: Collection[str], file_digest: str, version: tuple[str, str]) -> None:
        """Take away what stands in the way of rows, and empty the tables, if it has not begun."""
        with self._target.driver.transaction():
            self.create()
            if self.read_tables():
                return
            self._remove_obstacles(tables, version)
            self._target.execute(f"TRUNCATE {', '.join(map(quote_name, tables))}")
            for kind, name in (("file", file_digest), *(("table", name) for name in tables)):
                self._target.execute(f"INSERT INTO {NAME} VALUES (%s, %s, 0)", kind, name)

    def add_copied(self, name: str, rows: int) -> None:
        """Count rows that are copied in the same transaction."""
        self._target.execute(
            f"UPDATE {NAME} SET copied = copied + %s WHERE kind = 'table' AND name = %s", rows, name
        )

    def restore(self, table: str = "") -> None:
        """Make again what was taken away, of all tables or the indexes of one."""
        with self._target.driver.transaction():
            for statement in self.read_statements(table):
                self._target.execute(statement)
            self._target.execute(
                f"DELETE FROM {NAME} WHERE kind = 'statement' AND name = %s", table
            )

    def finish(self, statements: Iterable[str]) -> None:
        """Make again what was taken away, and end the copy."""
        with self._target.driver.transaction():
            self.restore()
            for statement in statements:
                self._target.execute(statement)
            self.drop()

    def _remove_obstacles(self, tables: Iterable[str], version: tuple[str, str]) -> None:
        quoted = {name: quote_name(name) for name in tables}
        read = self._target.driver.execute
        found = [("", *one) for one in read(_OBSTACLES.encode(), {"tables": [*quoted.values()]})]
        if self._target.has_rows(version[0]):
            found.append(("", f"DELETE FROM {quote_name(version[0])}", _set_version(version)))
        for name, table in quoted.items():
            found += [(name, *one) for one in read(_INDEXES.encode(), {"table": table})]
        for name, remove, restore in found:
            self._target.execute(remove)
            self._target.execute(
                f"INSERT INTO {NAME} (kind, name, statement) VALUES ('statement', %s, %s)",
                name,
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
