"""A pytest plugin that takes borrowed names away, as the next release of their package might.

`CHASSIS_WITHOUT` lists names of `chassis.db.borrowed` with commas between, or is `releases`: then
SQLAlchemy and aiosqlite are newer than any that was tested. Names that they do not need themselves
are gone in both cases.
"""

import os
from pkgutil import resolve_name
from typing import Any

import aiosqlite
import sqlalchemy

from chassis.db import borrowed

TAKEN = os.environ["CHASSIS_WITHOUT"].split(",")


def take_away() -> None:
    """Make the chassis find no name of `TAKEN`."""

    def find_what_is_left(name: str) -> Any:
        if name in TAKEN:
            raise AttributeError(name)
        return resolve_name(name)

    vars(borrowed).update(resolve_name=find_what_is_left)
    del sqlalchemy.util.await_only
    if TAKEN == ["releases"]:
        del sqlalchemy.util.await_
        sqlalchemy.__version__ = "2.2.0"
        aiosqlite.__version__ = "0.23.0"


take_away()
