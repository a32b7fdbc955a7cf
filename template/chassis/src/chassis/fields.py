"""Types for the fields of requests: what both databases can hold, and nothing else."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

__all__ = ["Moment"]


def _check_text(value: object) -> object:
    """Refuse a number, which would be read as seconds or as milliseconds, whatever fits better."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-", value)):
        return value
    raise ValueError("a date and time with a time zone is expected, such as 2024-02-29T10:00:00Z")


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC, the date is not in the years 1 to 9999") from None


# A date and time with a time zone, as RFC 3339 writes it; in UTC.
Moment = Annotated[AwareDatetime, BeforeValidator(_check_text), AfterValidator(_to_utc)]
