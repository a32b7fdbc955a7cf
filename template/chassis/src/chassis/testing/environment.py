"""The environment of a test, and the one that leads another process to the test's database."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from ..db.address.settings import DatabaseSettings


@contextmanager
def isolated(folder: Path) -> Iterator[None]:
    """Leave the shell's variables and the working directory, where a .env may be."""
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(_is_a_setting, list(os.environ)):
            patch.delenv(name)
        patch.chdir(folder)
        yield


def write_variables(settings: DatabaseSettings) -> dict[str, str]:
    """Return the variables that settings are read from; what was not given has its default."""
    fields = type(settings).model_fields
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    texts = settings.model_dump(mode="json", include=set(given))
    return {
        settings.platform_variables.get(name, f"APP_{name.upper()}"): (
            value.get_secret_value()
            if isinstance(value, SecretStr)
            else _write_value(texts[name], fields[name])
        )
        for name, value in given.items()
        if value is not None and name in fields
    }


def _write_value(value: Any, field: FieldInfo) -> str:
    """Return a value as text, as pydantic-settings reads it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and NoDecode in field.metadata:
        return ",".join(map(str, value))
    return json.dumps(value)


def _is_a_setting(variable: str) -> bool:
    name = variable.upper()
    if name.startswith("PG"):
        return not name.startswith("PGSERVER_")
    return name.startswith("APP_") or name in ("DATABASE_URL", "PORT", "RUN_DB_MIGRATIONS")
