"""Why a copy did not happen."""

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.errors import ProgramLimitExceeded, StatementTooComplex

# What the server says of a value that it does not take, and not of itself.
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, ProgramLimitExceeded, StatementTooComplex)
CORRECT = "correct the value in the file"
_CLASSES = {int: "an integer", float: "a fraction", str: "a text", bytes: "bytes"}


class CopyError(Exception):
    """The copy can't be made as things are; the message says what to do."""


class RefusedValueError(ValueError):
    """PostgreSQL would refuse a value: what is wrong with it, and how to set it right."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.cure = cure


def check_classes(values: Iterable[Any], column_of: str, *classes: type) -> None:
    """Raise RefusedValueError for a value of another storage class than its column's type has."""
    for other in {*map(type, values)} - {*classes}:
        found = _CLASSES.get(other, "something else")
        raise RefusedValueError(f"{found} in a column of {column_of}", CORRECT)
