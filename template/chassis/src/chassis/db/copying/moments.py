"""SQLite's dates and times as PostgreSQL writes them: SQLAlchemy stores them there as texts."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Any

from .errors import CORRECT, RefusedValueError, refuse_class

_INTERVAL_EPOCH = datetime(1970, 1, 1)


def create_moment_converter(has_zone: bool) -> Callable[[Any], str]:
    def convert_moment(value: Any) -> str:
        moment = _parse_text(datetime.fromisoformat, value, "datetimes")
        if moment.tzinfo is not None:
            if not has_zone:
                raise RefusedValueError(
                    "a moment with a time zone in a column without one",
                    f"{CORRECT}, or give the column timezone=True in a migration",
                )
            try:
                moment = moment.astimezone(UTC).replace(tzinfo=None)
            except OverflowError:
                raise RefusedValueError("a moment that in UTC has no year", CORRECT) from None
        written = _cut_zeros(moment.isoformat(" "))
        return f"{written}+00" if has_zone else written

    return convert_moment


def convert_date(value: Any) -> str:
    return str(_parse_text(date.fromisoformat, value, "dates"))


def convert_time(value: Any) -> str:
    found = _parse_text(time.fromisoformat, value, "times")
    if found.tzinfo is not None:
        raise RefusedValueError("a time with a time zone in a column without one", CORRECT)
    return _cut_zeros(found.isoformat())


def convert_interval(value: Any) -> str:
    """Return the moment that far after 1970 as an interval, which PostgreSQL writes otherwise."""
    moment = _parse_text(datetime.fromisoformat, value, "intervals")
    if moment.tzinfo is not None:
        raise RefusedValueError("a moment with a time zone in a column of intervals", CORRECT)
    length = moment - _INTERVAL_EPOCH
    return f"{length.days} days {length.seconds} seconds {length.microseconds} microseconds"


def _parse_text(parse: Callable[[str], Any], value: Any, column_of: str) -> Any:
    if type(value) is not str:
        raise refuse_class(value, column_of)
    try:
        return parse(value)
    except ValueError:
        raise RefusedValueError(f"none of the {column_of} of a service", CORRECT) from None


def _cut_zeros(text: str) -> str:
    """Return a time of the day as PostgreSQL writes it."""
    return text.rstrip("0").rstrip(".") if "." in text else text
