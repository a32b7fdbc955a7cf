"""Both sides compared: a table is read again while the next one is copied."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from .checks import Advance
from .encoder import Fingerprint, gather_lines
from .errors import CopyError
from .plan import TablePair
from .rehearsal import name_columns
from .source import quote_name
from .target import Target

_SECONDS_BETWEEN_LOOKS = 0.1


class Comparison:
    """Reads tables again in a thread, by a connection that has no other use meanwhile."""

    def __init__(self, reader: Target, thread: ThreadPoolExecutor) -> None:
        self._reader, self._thread = reader, thread
        self._tables: dict[str, Future[Fingerprint]] = {}
        self._rows = 0

    def begin_table(self, pair: TablePair) -> None:
        """Let the rows of a table be read, which are all there, and its statistics be made."""
        self._tables[pair.name] = self._thread.submit(self._read_table, pair)

    def count_left(self, rows: int) -> int:
        """Return how many of all rows have not been read."""
        return rows - self._rows

    def end(self, expected: Mapping[str, Fingerprint], advance: Advance) -> None:
        """Wait for all tables. Raise CopyError for those that differ from the file's."""
        shown = self._rows
        while wait(self._tables.values(), _SECONDS_BETWEEN_LOOKS).not_done:
            advance(self._rows - shown)
            shown = self._rows
        advance(self._rows - shown)
        found = {name: table.result() for name, table in self._tables.items()}
        if different := [*_describe_differences(expected, found)]:
            raise CopyError(
                "these tables differ from the file's; if something else writes to the target, "
                "stop it, and begin anew with --overwrite:\n" + "\n".join(different)
            )

    def _read_table(self, pair: TablePair) -> Fingerprint:
        table = quote_name(pair.name)
        query = f"COPY (SELECT {name_columns(pair)} FROM {table}) TO STDOUT".encode()
        found = Fingerprint()
        with self._reader.driver.cursor() as cursor, cursor.copy(query) as copy:
            for lines in gather_lines(map(bytes, copy)):
                found = found.add(lines)
                self._rows += len(lines)
                lines.clear()
        # Autovacuum may be at work on it already.
        self._reader.execute(f"ANALYZE (SKIP_LOCKED) {table}")
        return found


@contextmanager
def open_comparison(reader: Target) -> Iterator[Comparison]:
    """Yield a comparison. If the block fails, what it reads is cancelled."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            yield Comparison(reader, thread)
        except BaseException:
            thread.shutdown(wait=False, cancel_futures=True)
            reader.driver.cancel()
            raise


def _describe_differences(
    expected: Mapping[str, Fingerprint], found: Mapping[str, Fingerprint]
) -> Iterable[str]:
    for name, rows in expected.items():
        if found[name] != rows:
            yield f"  {name}: {rows.rows:,} rows in the file, {found[name].rows:,} there"
