"""What a rebuild of an SQLite table would lose: it is kept, or named.

SQLite can't alter most of a table, so Alembic's batch mode copies it into a new one. That one has
what SQLAlchemy reflects: no trigger, no index over an expression, no order or collation.
"""

import logging
import re
import warnings
from typing import Any, NamedTuple, NoReturn

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, SAWarning

from .sql_text import NAME, blank_literals, quote_name, unquote_name

logger = logging.getLogger(__name__)

_DROP_TABLE = re.compile(rf"\s*DROP TABLE {NAME}\s*$")
# The prefix is in Alembic's manual: "Running batch migrations for SQLite".
_RENAME_OF_COPY = re.compile(rf'\s*ALTER TABLE "?_alembic_tmp_.* RENAME TO {NAME}\s*$')
_COPY = re.compile(
    r'INSERT INTO (?P<table>"?_alembic_tmp_(?:[^"]*"|\S*)) \((?P<into>.*?)\) '
    r"SELECT (?P<values>.*)\s+FROM (?P<rest>.*)",
    re.DOTALL,
)
_WORD = re.compile(r"""(?:[^,"'(]|"(?:[^"]|"")*"|'(?:[^']|'')*'|\((?:[^()]|\([^()]*\))*\))+""")
_CREATE = re.compile(
    rf"\s*CREATE (?:UNIQUE )?(?:INDEX|TRIGGER) (?:IF NOT EXISTS )?{NAME}", re.IGNORECASE
)
_BROKEN_DEPENDENT = re.compile(r"error in (view|trigger) (.+?)(?: after rename)?: (.*)", re.DOTALL)
# What the new table lacks where the revision does not restate it.
_ARGUMENTS_OF_OPTIONS = {
    "AUTOINCREMENT": 'table_kwargs={"sqlite_autoincrement": True}',
    "COLLATE": 'reflect_args=[sa.Column(…, sa.String(collation="NOCASE"))]',
}


class _Attachment(NamedTuple):
    """A trigger or an index of a table, and for an index its columns in order."""

    kind: str
    sql: str
    columns: list[tuple[Any, ...]]

    @property
    def is_unreflected(self) -> bool:
        return self.kind == "trigger" or any(name is None for name, *_ in self.columns)


def preserve_rebuilt_tables(connection: Connection) -> None:
    """Keep triggers and indexes through each rebuild on this SQLite connection.

    Raise alembic.util.CommandError for what can't be kept: for an index at the rebuild, for a
    view or a trigger before the commit, as the revision may make it anew.
    """
    message = "Skipped unsupported reflection of expression-based index"
    warnings.filterwarnings("ignore", message=message, category=SAWarning)
    rebuilds = _Rebuilds(connection)
    event.listen(connection, "before_cursor_execute", rebuilds.before_statement)
    event.listen(connection, "before_cursor_execute", _copy_without_computed, retval=True)
    event.listen(connection, "after_cursor_execute", rebuilds.after_statement)
    event.listen(connection, "commit", rebuilds.check_dependents)


def _copy_without_computed(
    connection: Connection, cursor: Any, statement: str, parameters: Any, *rest: Any
) -> tuple[str, Any]:
    """Leave computed columns out of the copy into the new table: it computes its own."""
    if found := _COPY.match(statement):
        query = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden IN (2, 3)"
        rows = connection.exec_driver_sql(query, (unquote_name(found["table"]),))
        computed = {name for (name,) in rows}
        pairs = zip(_split_at_commas(found["into"]), _split_at_commas(found["values"]), strict=True)
        kept = [pair for pair in pairs if unquote_name(pair[0]) not in computed]
        into, values = (", ".join(words) for words in zip(*kept, strict=True))
        statement = f"INSERT INTO {found['table']} ({into}) SELECT {values} FROM {found['rest']}"
    return statement, parameters


def _split_at_commas(words: str) -> list[str]:
    """Split at commas outside parentheses and quotes."""
    return [found[0].strip() for found in _WORD.finditer(words)]


class _Rebuilds:
    def __init__(self, connection: Connection) -> None:
        self._execute = connection.exec_driver_sql
        self._dropped: dict[str, tuple[str, dict[str, _Attachment]]] = {}
        self._attached: dict[str, _Attachment] = {}
        self._kept: dict[str, _Attachment] = {}
        self._rebuilt: list[str] = []

    def before_statement(self, _: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if found := _DROP_TABLE.match(statement):
            table = unquote_name(found[1])
            self._dropped[table] = (self._read_sql(table), self._read_attached(table))
        elif _RENAME_OF_COPY.match(statement):
            # Else SQLite refuses to rename while a view or a trigger names the missing table.
            self._execute("PRAGMA legacy_alter_table=ON")
        elif (found := _CREATE.match(statement)) and (
            kept := self._kept.pop(unquote_name(found[1]), None)
        ):
            # Made anew by a revision that knew of the loss.
            self._execute(f"DROP {kept.kind} IF EXISTS {found[1]}")

    def after_statement(self, _: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if found := _RENAME_OF_COPY.match(statement):
            self._execute("PRAGMA legacy_alter_table=OFF")
            self._restore(unquote_name(found[1]))
        elif found := _CREATE.match(statement):
            self._restore_order(unquote_name(found[1]))

    def check_dependents(self, _: Connection) -> None:
        """Make SQLite compile each view and trigger, as it does when it renames any table."""
        if not self._rebuilt:
            return
        tables, self._rebuilt = ", ".join(dict.fromkeys(self._rebuilt)), []
        try:
            self._execute("CREATE TABLE _chassis_probe (id)")
            self._execute("ALTER TABLE _chassis_probe RENAME TO _chassis_probed")
            self._execute("DROP TABLE _chassis_probed")
        except DBAPIError as error:
            if found := _BROKEN_DEPENDENT.match(str(error.orig)):
                _refuse_rebuild(tables, f"breaks the {found[1]} {found[2]}", found[3], error)
            raise

    def _restore(self, table: str) -> None:
        before, attached = self._dropped.pop(table, ("", {}))
        self._rebuilt.append(table)
        for name, one in attached.items():
            if not one.is_unreflected:
                self._attached[name] = one
                continue
            try:
                self._execute(one.sql)
            except DBAPIError as error:
                _refuse_rebuild(table, f"would lose the {one.kind} {name}", str(error.orig), error)
            self._kept[name] = one
        for option in _find_table_options(before) - _find_table_options(self._read_sql(table)):
            logger.warning(
                "the rebuild of the table %s lost %s; unless that is meant, write "
                "op.batch_alter_table(…, %s)",
                table,
                option,
                _ARGUMENTS_OF_OPTIONS[option],
            )

    def _restore_order(self, index: str) -> None:
        """Make an index anew if only its descending order or a collation is gone."""
        before = self._attached.pop(index, None)
        now = self._read_columns(index)
        if before is None or before.columns == now or _names_of(before.columns) != _names_of(now):
            return
        self._execute(f"DROP INDEX {quote_name(index)}")
        self._execute(before.sql)

    def _read_sql(self, table: str) -> str:
        query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        return self._execute(query, (table,)).scalar() or ""

    def _read_attached(self, table: str) -> dict[str, _Attachment]:
        rows = self._execute(
            "SELECT name, type, sql FROM sqlite_master WHERE type IN ('index', 'trigger') "
            "AND tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL",
            (table,),
        ).all()
        return {name: _Attachment(kind, sql, self._read_columns(name)) for name, kind, sql in rows}

    def _read_columns(self, index: str) -> list[tuple[Any, ...]]:
        query = 'SELECT name, "desc", coll FROM pragma_index_xinfo(?) WHERE key'
        return [tuple(row) for row in self._execute(query, (index,))]


def _refuse_rebuild(table: str, loss: str, reason: str, error: DBAPIError) -> NoReturn:
    from alembic.util import CommandError

    raise CommandError(
        f"the rebuild of the table {table} {loss} ({reason}); nothing was changed: drop it before "
        "op.batch_alter_table and create it again after it, as it is to be"
    ) from error


def _find_table_options(sql: str) -> set[str]:
    words = blank_literals(sql, names=True).upper().split()
    return _ARGUMENTS_OF_OPTIONS.keys() & {word.strip("(,)") for word in words}


def _names_of(columns: list[tuple[Any, ...]]) -> list[Any]:
    return [name for name, *_ in columns]
