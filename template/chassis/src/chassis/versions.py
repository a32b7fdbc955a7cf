"""The version of a service, which its distribution has."""

from functools import cache
from importlib.metadata import entry_points


@cache
def find_version(package: str) -> str | None:
    """Return the version of the distribution whose command is in a package; None if there is none.

    By its console script, as an editable install does not list its packages.
    """
    for script in entry_points(group="console_scripts"):
        if script.module.partition(".")[0] == package and script.dist is not None:
            return script.dist.version
    return None
