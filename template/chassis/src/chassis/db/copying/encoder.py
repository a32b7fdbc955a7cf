"""Rows of SQLite as lines of PostgreSQL's COPY, and sums that compare both sides."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import psycopg

from .errors import CORRECT, RefusedValueError
from .source import Row
from .target import TargetColumn
from .values import (
    NULL,
    Canonicalise,
    create_converter,
    escape,
    find_canonical_form,
    is_text,
    is_written_alike,
)

# Returns how the server writes texts of a type; raises psycopg.Error if it refuses one.
Normalise = Callable[[str, Sequence[str]], list[str]]

_PIECES_BYTES = 200_000
_NOT_NULL = RefusedValueError(
    "NULL in a column that must not be", "fill it, or let the column be NULL in a migration"
)
_NOT_UTF8 = RefusedValueError("a text that is not UTF-8", f"{CORRECT}, or delete the row")


@dataclass(frozen=True)
class Fingerprint:
    """The number of a table's rows, and a sum of them that their order does not change."""

    rows: int = 0
    checksum: int = 0

    def add(self, lines: Sequence[bytes]) -> "Fingerprint":
        """Return the fingerprint with more rows."""
        digests = b"".join([blake2b(line, digest_size=8).digest() for line in lines])
        checksum = sum(struct.unpack(f">{len(lines)}Q", digests), self.checksum) % 2**64
        return Fingerprint(self.rows + len(lines), checksum)


class RowEncoder:
    """Encodes the rows of one table."""

    def __init__(self, columns: Sequence[TargetColumn]) -> None:
        self.columns = columns
        self._converters = [create_converter(column) for column in columns]
        self.texts = [place for place, one in enumerate(columns) if is_text(one)]
        self._asked = [place for place, one in enumerate(columns) if not is_written_alike(one)]
        forms = ((place, find_canonical_form(one)) for place, one in enumerate(columns))
        self._forms = {place: form for place, form in forms if form is not None}

    def encode(self, rows: Sequence[Row], normalise: Normalise | None = None) -> bytes:
        """Return the lines of COPY; values of types that only the server knows, as it writes them.

        Raise RefusedValueError, UnicodeEncodeError or psycopg.Error for a value that is refused.
        """
        columns = zip(*rows, strict=True)
        fields = [
            self._encode_column(place, values, normalise)
            for place, values in zip(range(len(self.columns)), columns, strict=False)
        ]
        return ("\n".join(map("\t".join, zip(*fields, strict=True))) + "\n").encode()

    def split_lines(self, data: bytes) -> list[bytes]:
        """Return the lines, each in a form that is the same for equal rows."""
        lines = data[:-1].split(b"\n")
        return [_apply_forms(line, self._forms) for line in lines] if self._forms else lines

    def find_refusals(
        self, rows: Sequence[Row], normalise: Normalise
    ) -> Iterator[tuple[Row, TargetColumn, RefusedValueError]]:
        """Yield each value that PostgreSQL would refuse: its row, its column, and why."""
        for place, column in enumerate(self.columns):
            good: list[Row] = []
            for row in rows:
                if (refusal := self._find_refusal(place, row[place])) is not None:
                    yield row, column, refusal
                elif row[place] is not None:
                    good.append(row)
            if place in self._asked:
                for row, refusal in self._find_refused_rows(place, good, normalise):
                    yield row, column, refusal

    def _encode_column(
        self, place: int, values: Sequence[Any], normalise: Normalise | None
    ) -> list[str]:
        column, convert = self.columns[place], self._converters[place]
        if column.is_not_null and None in values:
            raise _NOT_NULL
        if normalise is not None and place in self._asked:
            texts = [convert(value) for value in values if value is not None]
            written = iter(normalise(column.type, texts))
            return [NULL if value is None else escape(next(written)) for value in values]
        if place in self.texts:
            return [NULL if value is None else escape(convert(value)) for value in values]
        return [NULL if value is None else convert(value) for value in values]

    def _find_refusal(self, place: int, value: Any) -> RefusedValueError | None:
        if value is None:
            return _NOT_NULL if self.columns[place].is_not_null else None
        try:
            self._converters[place](value).encode()
        except RefusedValueError as refusal:
            return refusal
        except UnicodeEncodeError:
            return _NOT_UTF8
        return None

    def _find_refused_rows(
        self, place: int, rows: Sequence[Row], normalise: Normalise
    ) -> Iterator[tuple[Row, RefusedValueError]]:
        """Yield the rows whose value the server refuses."""
        column = self.columns[place]
        try:
            normalise(column.type, [self._converters[place](row[place]) for row in rows])
        except psycopg.Error as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                yield from self._find_refused_rows(place, rows[:middle], normalise)
                yield from self._find_refused_rows(place, rows[middle:], normalise)
            else:
                problem = f"no {column.type} ({error.diag.sqlstate})"
                yield rows[0], RefusedValueError(problem, CORRECT)


def _apply_forms(line: bytes, forms: dict[int, Canonicalise]) -> bytes:
    fields = line.split(b"\t")
    for place, form in forms.items():
        if fields[place] != b"\\N":
            fields[place] = form(fields[place])
    return b"\t".join(fields)


def split_pieces(encoder: RowEncoder, pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines that a server sends, many at a time; few that are large."""
    kept: list[bytes] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > _PIECES_BYTES:
            yield encoder.split_lines(b"".join(kept))
            kept, size = [], 0
    if kept:
        yield encoder.split_lines(b"".join(kept))
