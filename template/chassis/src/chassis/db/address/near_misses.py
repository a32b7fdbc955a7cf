"""Variables that nothing reads although somebody meant them for the database."""

import re
from collections.abc import Collection, Iterable, Iterator, Set
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic_settings import SettingsError

from .sources import VariableSource, known_variables, storable_variables

if TYPE_CHECKING:
    from .urls import DatabaseTarget

_URL = "APP_DATABASE_URL"
# What the URL is called elsewhere.
_NAMES_OF_URLS = re.compile(
    r"DATABASE_URL"
    r"|APP_(?:DATABASE|DB|PG|POSTGRES(?:QL)?|SQL|SQLALCHEMY(?:_DATABASE)?)_?(?:URL|URI|DSN)"
)
# Each of these fields chooses a database.
DATABASE_CHOICES = {
    "database_url",
    "database_platform_url",
    "database_backend",
    "database_sqlite_path",
}
# Fields that name a database, and the backend that reads them.
_BACKENDS = {
    "database_postgres_host": "postgres",
    "database_postgres_name": "postgres",
    "database_sqlite_path": "sqlite",
}
_UNLESS_SQLITE = "or set APP_DATABASE_BACKEND=sqlite if SQLite is meant"


class NearMissGuard(VariableSource):
    """Refuse the default, SQLite, beside a variable that was meant to name another database.

    The last source of settings, which adds none. Raise SettingsError that says what to set.
    """

    def __call__(self) -> dict[str, Any]:
        """Set nothing; raise SettingsError if an unread variable seems to name the database."""
        if self.current_state.keys() & DATABASE_CHOICES:
            return {}
        if of_postgres := _select_postgres_fields(self.current_state):
            raise SettingsError(
                f"APP_{of_postgres[0].upper()} is not read without "
                f"APP_DATABASE_BACKEND=postgres: set it, {_UNLESS_SQLITE}"
            )
        known = storable_variables(self.settings_cls)
        for name in sorted(self.texts.keys() - known):
            if _is_meant_for_database(name, known):
                # A platform's variable is read from the environment only.
                place = " in .env" if name in known_variables(self.settings_cls) else ""
                raise SettingsError(
                    f"{name}{place} is not read, and nothing else names a database: "
                    f"{suggest(name, known) or f'set {_URL}'}, {_UNLESS_SQLITE}"
                )
        return {}


def suggest(name: str, known: Collection[str]) -> str | None:
    """Return what to do about a variable that is not known; None if it is like no other."""
    stem = name.removesuffix("_FILE")
    meant = _URL if _NAMES_OF_URLS.fullmatch(stem) and stem not in known else stem
    if meant not in known:
        near = get_close_matches(name, sorted(known), n=1)
        return f"did you mean {near[0]}?" if near else None
    if stem == name:
        return f"name it {meant}"
    return f"put its value into a file named {meant.lower()} in APP_SECRETS_DIR (/run/secrets)"


def find_unread_fields(given: Set[str], target: "DatabaseTarget") -> Iterator[str]:
    """Yield a warning for each of the given fields that belongs to another database."""
    of_postgres = _select_postgres_fields(given)
    if of_postgres and "database_backend" not in given and target.backend == "sqlite":
        first = f"APP_{of_postgres[0].upper()}"
        yield f"{first} is not read without APP_DATABASE_BACKEND=postgres"
    elif "database_postgres_password_file" in given and target.password_file is None:
        yield (
            "APP_DATABASE_POSTGRES_PASSWORD_FILE is not read, because "
            f"{target.chosen_by} chooses the database"
        )
    if "database_platform_url" in given and not {"database_url", "database_backend"} & given:
        for name in sorted(_BACKENDS.keys() & given)[:1]:
            yield (
                f"APP_{name.upper()} is not read, because DATABASE_URL is set; "
                f"set APP_DATABASE_BACKEND={_BACKENDS[name]} to use it"
            )


def _select_postgres_fields(given: Iterable[str]) -> list[str]:
    return sorted(name for name in given if name.startswith("database_postgres_"))


def _is_meant_for_database(name: str, known: Collection[str]) -> bool:
    stem = name.removesuffix("_FILE")
    if stem in known or (stem != name and stem.startswith("APP_DATABASE_")):
        return stem.startswith("APP_DATABASE_")
    return bool(_NAMES_OF_URLS.fullmatch(stem) or get_close_matches(stem, [_URL], cutoff=0.9))
