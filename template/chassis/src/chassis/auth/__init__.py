"""Callers: who sends a request, and what they may do."""

from .callers import (
    Caller,
    CallerError,
    CurrentCaller,
    OptionalCaller,
    get_caller,
    public,
    requires,
)
from .required import CallerApp, PublicApp

__all__ = [
    "Caller",
    "CallerApp",
    "CallerError",
    "CurrentCaller",
    "OptionalCaller",
    "PublicApp",
    "get_caller",
    "public",
    "requires",
]
