"""SQLite's dates and times as PostgreSQL writes them: SQLAlchemy stores them there as texts."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from .errors import CORRECT, RefusedValueError, check_classes

_INTERVAL_EPOCH = datetime(1970, 1, 1)
# As SQLAlchemy stores moments, and a text that needs no writing once it is known to be one.
_USUAL_MOMENTS = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\n?)*", re.ASCII)


def create_moment_converter(has_zone: bool) -> Callable[[Sequence[Any]], Sequence[str]]:
    zone = "+00" if has_zone else ""

    def convert_moments(values: Sequence[Any]) -> Sequence[str]:
        moments = _parse_texts(datetime.fromisoformat, values, "datetimes")
        if not _USUAL_MOMENTS.fullmatch("\n".join(values)):
            values = [remove_zone(moment).isoformat(" ", "microseconds") for moment in moments]
        return [text.rstrip("0").rstrip(".") + zone for text in values]

    def remove_zone(moment: datetime) -> datetime:
        if moment.tzinfo is None:
            return moment
        if not has_zone:
            raise RefusedValueError(
                "a moment with a time zone in a column without one",
                f"{CORRECT}, or give the column timezone=True in a migration",
            )
        try:
            return moment.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            raise RefusedValueError("a moment that in UTC has no year", CORRECT) from None

    return convert_moments


def convert_dates(values: Sequence[Any]) -> Sequence[str]:
    return [*map(str, _parse_texts(date.fromisoformat, values, "dates"))]


def convert_times(values: Sequence[Any]) -> Sequence[str]:
    times = _parse_texts(time.fromisoformat, values, "times")
    if any(one.tzinfo for one in times):
        raise RefusedValueError("a time with a time zone in a column without one", CORRECT)
    return [one.isoformat("microseconds").rstrip("0").rstrip(".") for one in times]


def convert_intervals(values: Sequence[Any]) -> Sequence[str]:
    """Return the moments that far after 1970 as intervals, which PostgreSQL writes otherwise."""
    moments = _parse_texts(datetime.fromisoformat, values, "intervals")
    if any(moment.tzinfo for moment in moments):
        raise RefusedValueError("a moment with a time zone in a column of intervals", CORRECT)
    lengths = [moment - _INTERVAL_EPOCH for moment in moments]
    return [
        f"{length.days} days {length.seconds} seconds {length.microseconds} microseconds"
        for length in lengths
    ]


def _parse_texts(parse: Callable[[str], Any], values: Sequence[Any], column_of: str) -> list[Any]:
    check_classes(values, column_of, str)
    try:
        return [*map(parse, values)]
    except ValueError:
        raise RefusedValueError(f"none of the {column_of} of a service", CORRECT) from None
