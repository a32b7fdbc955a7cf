"""The SQLite file that is copied: read-only, and as it was at one moment."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, NullPool, create_engine

from ..errors import DatabaseUnavailableError
from .errors import CopyError

Row = tuple[Any, ...]

# A chunk of rows ends at the first of these: wide rows must not fill the memory.
_CHUNK_ROWS, _CHUNK_BYTES = 500, 1_000_000
_ROW_NUMBERS = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True)
class SourceTable:
    """A table of the file. `key` identifies a row, by `order` the rows are read."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    order: tuple[str, ...]


class SourceFile:
    """An open file: a snapshot to read from, and a connection that notices who writes."""

    def __init__(self, file: Path, snapshot: Connection, watcher: sqlite3.Connection) -> None:
        self.file = file
        self.connection = snapshot
        self._watcher = watcher
        self._state = self._read_state()
        driver: Any = snapshot.connection.driver_connection
        self._driver: sqlite3.Connection = driver
        self._driver.execute("BEGIN")
        self.read("SELECT count(*) FROM sqlite_master")

    def read(self, query: str, *values: object) -> list[Row]:
        """Return the rows of a query on the snapshot."""
        return self._driver.execute(query, values).fetchall()

    def refuse_change(self) -> None:
        """Raise CopyError if the file was written to, or replaced, since it was opened."""
        if self._read_state() != self._state:
            raise CopyError(
                f"{self.file} was written to while it was copied: stop the service and everything "
                "else that writes to it, then run this command again"
            )

    def read_tables(self) -> list[SourceTable]:
        """Return the tables, without views and those of SQLite itself."""
        listed = self.read(
            "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' "
            r"AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name"
        )
        return [self._read_table(name, bool(has_no_rowid)) for name, has_no_rowid in listed]

    def read_virtual_tables(self) -> list[str]:
        """Return the names of virtual tables, such as those of a full-text search."""
        query = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'"
        return [name for (name,) in self.read(query)]

    def count(self, table: SourceTable) -> int:
        """Return the number of rows."""
        number: int = self.read(f"SELECT count(*) FROM {quote_name(table.name)}")[0][0]
        return number

    def read_chunks(
        self,
        table: SourceTable,
        columns: Sequence[str],
        unbounded: Collection[int] = (),
        decode: Callable[[bytes], str] = str,
    ) -> Iterator[list[Row]]:
        """Yield the columns of the rows, in the order of these.

        `unbounded` are the places of columns whose values may be large. `str` decodes faster than
        `decode_any`; it raises sqlite3.OperationalError for a text that is no UTF-8.
        """
        self._driver.text_factory = decode
        query = _write_query(table, columns)
        rows: list[Row] = []
        size = 0
        for row in self._driver.execute(query):
            rows.append(row)
            for place in unbounded:
                if type(row[place]) in (str, bytes):
                    size += len(row[place])
            # A large row is not kept while the next one is read.
            del row
            if len(rows) == _CHUNK_ROWS or size > _CHUNK_BYTES:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows

    def read_key(self, table: SourceTable, number: int) -> Row:
        """Return the key of a row, of which the first has the number 1."""
        return self.read(f"{_write_query(table, table.key)} LIMIT 1 OFFSET {number - 1}")[0]

    def read_damage(self) -> list[str]:
        """Return what SQLite finds wrong with the file."""
        return [line for (line,) in self.read("PRAGMA quick_check(100000)") if line != "ok"]

    def read_counters(self) -> dict[str, int]:
        """Return the last number that each AUTOINCREMENT table has given."""
        if not self.read("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"):
            return {}
        return dict(self.read("SELECT name, seq FROM sqlite_sequence"))

    def _read_table(self, name: str, has_no_rowid: bool) -> SourceTable:
        query = "SELECT name, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid"
        found = self.read(query, name)
        columns = tuple(column for column, _ in found)
        key = tuple(column for column, place in sorted(found, key=lambda one: one[1]) if place)
        if has_no_rowid:
            return SourceTable(name, columns, key, key)
        taken = {column.lower() for column in columns}
        number = next((alias for alias in _ROW_NUMBERS if alias not in taken), None)
        if number is None:
            raise CopyError(f"table {name} has columns named rowid, _rowid_ and oid: rename one")
        return SourceTable(name, columns, key or (number,), (number,))

    def _read_state(self) -> tuple[int, int, int]:
        found = self.file.stat()
        version: int = self._watcher.execute("PRAGMA data_version").fetchone()[0]
        return found.st_dev, found.st_ino, version


@contextmanager
def open_source(file: Path) -> Iterator[SourceFile]:
    """Open a file. Raise DatabaseUnavailableError if it can't be read, or is none of SQLite."""
    if not file.is_file():
        raise CopyError(
            f"there is no SQLite file {file}: name the one that the service uses "
            "(APP_DATABASE_URL=sqlite:///… or APP_DATABASE_SQLITE_PATH)"
        )
    engine = create_engine("sqlite://", creator=partial(_open_read_only, file), poolclass=NullPool)
    try:
        with closing(_open_read_only(file)) as watcher, engine.connect() as snapshot:
            yield SourceFile(file, snapshot, watcher)
    except sqlite3.Error as error:
        raise DatabaseUnavailableError(f"{file} can't be read: {error}") from error
    finally:
        engine.dispose()


def decode_any(text: bytes) -> str:
    """Return a text. What is no UTF-8 is half of a surrogate pair there, which nothing encodes."""
    return text.decode("utf-8", "surrogateescape")


def quote_name(name: str) -> str:
    """Return a name as both databases take it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def _write_query(table: SourceTable, columns: Sequence[str]) -> str:
    selected, order = (", ".join(map(quote_name, names)) for names in (columns, table.order))
    return f"SELECT {selected} FROM {quote_name(table.name)} ORDER BY {order}"


def _open_read_only(file: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(file.resolve()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.text_factory = decode_any
    connection.execute("PRAGMA case_sensitive_like=ON")
    return connection
