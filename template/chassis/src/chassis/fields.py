"""Types for the fields of requests: what both databases hold, as OpenAPI documents it.

Number columns are PostgreSQL's 32-bit `integer` and `Numeric(10, 2)`. A value out of bounds is a
422 that names the field; without these types it is one of the database, which names nothing.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema

__all__ = [
    "MAX_COUNT",
    "AfterId",
    "BigId",
    "Change",
    "Count",
    "Id",
    "Moment",
    "Money",
    "PageSize",
    "Reference",
    "text",
]

MAX_ID = 2**31 - 1
# Two of this size add up within 32 bits.
MAX_COUNT = 10**9
MAX_MONEY = 99_999_999.99
_PLAIN_MONEY = r"^[0-9]{1,8}(\.[0-9]{1,2})?$"
_MONEY_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": MAX_MONEY},
        {"type": "string", "pattern": _PLAIN_MONEY},
    ]
}


def text(max_length: int, *, min_length: int = 1) -> Any:
    """Return the bounds of a text: `Annotated[str, text(200)]` fits `String(200)`.

    Lengths are in code points, as PostgreSQL counts them; its `text` can't hold a NUL.
    """
    return Field(min_length=min_length, max_length=max_length, pattern=r"^[^\x00]*$")


def _refuse_bool_and_text(number: object) -> object:
    """Refuse `true` and "5", which Pydantic takes for numbers; 5.0 is the integer 5 in JSON."""
    if isinstance(number, bool | str):
        raise ValueError("a number is expected")
    return number


def _prepare_money(amount: object) -> object:
    """Round a number to cents; refuse a text such as 1e2 or 1_000, which `Decimal` would read."""
    if isinstance(amount, str) and not re.fullmatch(_PLAIN_MONEY, amount):
        raise ValueError("an amount is digits with at most two decimals, such as 12.50")
    return round(amount, 2) if isinstance(amount, float) and 0 < amount < MAX_MONEY else amount


def _to_cents(amount: Decimal) -> Decimal:
    """Return an amount as the column gives it back: two decimals, no sign before a zero."""
    return round(abs(amount), 2)


def _refuse_number(value: object) -> object:
    """Refuse a number, which would be read as seconds or as milliseconds, whatever fits better."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-", value)):
        return value
    raise ValueError("a date and time with a time zone is expected, such as 2024-02-29T10:00:00Z")


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC, the date is not in the years 1 to 9999") from None


Id = Annotated[int, Field(ge=1, le=MAX_ID)]
"""The id of a row in a path or a query, 1 to 2,147,483,647: what an `integer` key counts to."""

BigId = Annotated[int, Field(ge=1, le=2**63 - 1)]
"""The id of a row whose key has 64 bits, a `BigKey`."""

AfterId = Annotated[int, Field(ge=0, le=MAX_ID)]
"""In a query, the last id of the page before, or 0 for the first page."""

PageSize = Annotated[int, Field(ge=1, le=100)]
"""In a query, the rows of a page, 1 to 100: one request can't read a whole table."""

Reference = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(_refuse_bool_and_text)]
"""The id of another row in a body; bounds as for `Id`, and "5" is refused."""

Count = Annotated[int, Field(ge=0, le=MAX_COUNT), BeforeValidator(_refuse_bool_and_text)]
"""How many there are, 0 to 1,000,000,000: a `Count` and a `Change` add up within an `integer`."""

Change = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT), BeforeValidator(_refuse_bool_and_text)]
"""What is added to a `Count`, or taken from it: -1,000,000,000 to 1,000,000,000."""

Money = Annotated[
    Decimal,
    Field(ge=0, max_digits=10, decimal_places=2),
    BeforeValidator(_prepare_money),
    AfterValidator(_to_cents),
    WithJsonSchema(_MONEY_SCHEMA, mode="validation"),
]
"""An amount, 0 to 99,999,999.99: what `Numeric(10, 2)` holds, and a `Decimal` of two decimals.

A number of JSON is rounded to cents. A text is digits with at most two decimals.
"""

Moment = Annotated[AwareDatetime, BeforeValidator(_refuse_number), AfterValidator(_to_utc)]
"""A date and time with a time zone, as RFC 3339 writes it; in UTC."""
