"""Every private or undocumented name of another package that the chassis uses, behind one gate.

A name is used with the minor releases of its package that were tested, and if it is there. With any
other release the public, slower way runs, and a line of the log and `doctor` say so. Nothing that
protects (host check, limits, rules of a session) may depend on a name of this module.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import resolve_name
from typing import Any, NamedTuple, TypeVar

P = TypeVar("P")

# The argument of `connect` that SQLAlchemy's `create_async_engine(async_creator=…)` makes.
CREATOR_ARGUMENT = "async_creator_fn"


class Loan(NamedTuple):
    """What is borrowed from a package, from which of its minor releases, and what for."""

    # How the versions of those releases begin.
    releases: tuple[str, ...]
    # Each as `module:attribute`.
    names: Sequence[str]
    # How the service is worse off without them.
    without: str


LOANS = {
    "sqlalchemy": Loan(
        ("2.1.",),
        (
            "sqlalchemy.util:await_",
            "sqlalchemy.util.queue:Empty",
            "sqlalchemy.util.queue:Full",
            "sqlalchemy.pool:AsyncAdaptedQueuePool._queue_class",
        ),
        "who waits longest for a connection is not always served first",
    ),
    "aiosqlite": Loan(("0.22.",), (), "a statement of SQLite takes four visits to its thread"),
}


def may_use(package: str) -> bool:
    """Return whether a package's release was tested and still has every name that is borrowed."""
    loan = LOANS[package]
    if not import_module(package).__version__.startswith(loan.releases):
        return False
    try:
        for name in loan.names:
            resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def describe_fallbacks() -> list[str]:
    """Return a sentence for each imported package whose public, slower way runs."""
    return [
        f"{package} {import_module(package).__version__} is not a release that this chassis was "
        f"tested with, so that its private names are not used: {loan.without}; copier update"
        for package, loan in LOANS.items()
        if package in sys.modules and not may_use(package)
    ]


def find_route_template(scope: Mapping[str, Any]) -> str | None:
    """Return the template of the route that FastAPI found, with the prefixes of its routers.

    Without FastAPI's private entry of the scope it is the route's own, without a prefix.
    """
    included = scope.get("fastapi", {}).get("effective_route_context")
    template: str | None = getattr(included or scope.get("route"), "path_format", None)
    return template


def replace_queue(pool: type[P], queue: type[Any]) -> type[P]:
    """Return a subclass of one of SQLAlchemy's pools that holds its connections in this queue."""
    wait_for, empty_error, full_error, _ = map(resolve_name, LOANS["sqlalchemy"].names)
    names = {
        "empty_error": empty_error,
        "full_error": full_error,
        "wait_for": staticmethod(wait_for),
    }
    attributes = {
        "_queue_class": type(queue.__name__, (queue,), names),
        # Names its logger.
        "__module__": pool.__module__,
    }
    return type(pool.__name__, (pool,), attributes)
