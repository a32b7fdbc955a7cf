"""Rows of SQLite as lines of PostgreSQL's COPY, and sums that compare both sides."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.errors import NumericValueOutOfRange

from .errors import CORRECT, REFUSALS, RefusedValueError
from .target import TargetColumn
from .values import NULL, create_converter, escape, is_text, is_written_alike

# Returns how the server writes texts of a type; raises one of REFUSALS.
Normalise = Callable[[str, Sequence[str]], list[str]]

_PIECES_BYTES = 200_000
_NOT_NULL = RefusedValueError(
    "NULL in a column that must not be", "fill it, or let the column be NULL in a migration"
)
_NOT_UTF8 = RefusedValueError("a text that is not UTF-8", f"{CORRECT}, or delete the row")


@dataclass(frozen=True)
class Fingerprint:
    """The number of a table's rows, and a sum of them that their order does not change.

    The sum is of this process: `hash` has a key that each process draws.
    """

    rows: int = 0
    checksum: int = 0

    def add(self, lines: Sequence[bytes]) -> "Fingerprint":
        """Return the fingerprint with more rows."""
        checksum = sum(map(hash, lines), self.checksum) % 2**64
        return Fingerprint(self.rows + len(lines), checksum)


class RowEncoder:
    """Encodes the rows of one table, as PostgreSQL will write them."""

    def __init__(self, columns: Sequence[TargetColumn], normalise: Normalise) -> None:
        self._columns = columns
        self._normalise = normalise
        self._converters = [create_converter(column) for column in columns]
        self.texts = [place for place, one in enumerate(columns) if is_text(one)]
        self.asked = [place for place, one in enumerate(columns) if not is_written_alike(one)]
        texts = [place for place in self.texts if columns[place].kind != "bytea"]
        self._escaped = {*self.asked, *texts}

    def encode(self, rows: Sequence[Sequence[Any]], *, with_null: bool = False) -> list[bytes]:
        """Return the lines of COPY.

        Raise RefusedValueError, UnicodeEncodeError or one of REFUSALS for a value that is refused.
        """
        columns = zip(range(len(self._columns)), zip(*rows, strict=True), strict=False)
        fields = [self._encode_column(place, values, with_null) for place, values in columns]
        return [line.encode() for line in map("\t".join, zip(*fields, strict=True))]

    def find_refusals(self, row: Sequence[Any]) -> Iterator[tuple[int, RefusedValueError]]:
        """Yield the place of each value that PostgreSQL would refuse, and why."""
        for place, column in enumerate(self._columns):
            try:
                self._encode_column(place, [row[place]], with_null=False)[0].encode()
            except RefusedValueError as refusal:
                yield place, refusal
            except UnicodeEncodeError:
                yield place, _NOT_UTF8
            except NumericValueOutOfRange:
                yield place, RefusedValueError("a number above the column's range", CORRECT)
            except REFUSALS as error:
                yield place, RefusedValueError(f"no {column.type} ({error.sqlstate})", CORRECT)

    def _encode_column(self, place: int, values: Sequence[Any], with_null: bool) -> Sequence[str]:
        column = self._columns[place]
        present = [value for value in values if value is not None] if None in values else values
        if column.is_not_null and len(present) < len(values) and not with_null:
            raise _NOT_NULL
        texts = self._converters[place](present)
        if place in self.asked:
            texts = self._normalise(column.type, texts)
        if place in self._escaped:
            texts = escape(texts)
        if len(present) == len(values):
            return texts
        written = iter(texts)
        return [NULL if value is None else next(written) for value in values]


def gather_lines(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines that a server sends, many at a time; few that are large.

    libpq returns one row in each piece, with a line feed.
    """
    lines: list[bytes] = []
    size = 0
    for piece in pieces:
        lines.append(piece[:-1])
        size += len(piece)
        if size > _PIECES_BYTES:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines
