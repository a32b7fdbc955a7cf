"""Why a copy did not happen."""

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


def refuse_class(value: Any, column_of: str) -> RefusedValueError:
    """Return the error for a value of another storage class than its column's type has."""
    found = _CLASSES.get(type(value), "something else")
    return RefusedValueError(f"{found} in a column of {column_of}", CORRECT)
