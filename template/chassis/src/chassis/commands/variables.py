"""The environment variables of a settings class: what is wrong with them, and what is not read."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from ..db.address.dotenv import read_dotenv
from ..db.address.near_misses import suggest
from ..db.address.quotes import is_quoted
from ..db.address.service_links import is_service_link, linked_services
from ..db.address.settings import DatabaseSettings
from ..db.address.sources import (
    Texts,
    is_secret,
    known_variables,
    prefix_of,
    read_dotenv_texts,
    read_environment,
    read_secret_files,
    storable_variables,
    variables_of,
)

SettingsClass = type[DatabaseSettings]

MOST_WARNINGS = 20

_PHRASES = {
    "bool_parsing": "must be true or false",
    "float_parsing": "must be a number",
    "int_parsing": "must be a whole number",
    "missing": "must be set, it has no default",
}


def explain(error: ValidationError | SettingsError, settings: SettingsClass) -> str:
    """Return which variables are wrong and how to set them right; never what they hold."""
    if isinstance(error, SettingsError):
        return _explain_source(error, settings)
    lines = [
        _explain_value(found, settings)
        for found in error.errors(include_url=False, include_input=False)
        # It follows from another error, which is listed as well.
        if found["type"] != "default_factory_not_called"
    ]
    return "\n  ".join(["the settings are not valid", *dict.fromkeys(lines)])


def find_warnings(settings: SettingsClass) -> Iterator[str]:
    """Yield a warning for each variable that is not read as it seems to be; never its value.

    Raise SettingsError if `.env` can't be read.
    """
    environment, dotenv = read_environment(settings), read_dotenv_texts(settings)
    found = [
        *_find_service_links(),
        *_find_misread_names(settings),
        *_find_quoted_secrets(settings, environment),
        *_find_unread(settings, environment, dotenv),
    ]
    yield from found[:MOST_WARNINGS]
    if len(found) > MOST_WARNINGS:
        yield f"{len(found) - MOST_WARNINGS} more variables are not read"


def source_of(settings: DatabaseSettings, field: str) -> str:
    """Return where a field's value came from: the environment, .env, a file, or its default."""
    kind, folder = type(settings), settings.secrets_dir
    names = set(variables_of(kind, field))
    if names & read_environment(kind).keys():
        return "environment"
    if field not in kind.platform_variables and names & read_dotenv_texts(kind).keys():
        return ".env"
    if names & read_secret_files(kind, folder).keys():
        return f"a file in {folder}"
    if field not in settings.model_fields_set:
        return "default"
    return settings.secrets_source or "code"


def _find_service_links() -> Iterator[str]:
    for start in sorted(linked_services()):
        if f"{start}_".startswith("APP_"):
            example = "PORT" if is_service_link(f"{start}_PORT") else "SERVICE_HOST"
            yield (
                f"{start}_{example} and others that Kubernetes sets for the Service "
                f"{start.lower().replace('_', '-')} are ignored; put enableServiceLinks: false "
                "into the Pod's spec"
            )


def _find_misread_names(settings: SettingsClass) -> Iterator[str]:
    """Yield a warning for each name that `.env` sets twice, or that is not read from it."""
    lines = Counter(one.name.upper() for one in read_dotenv())
    for name, times in lines.items():
        if times > 1 and name.startswith(prefix_of(settings)):
            yield f"{name} is set {times} times in .env; the last one counts"
    for field, name in settings.platform_variables.items():
        if name in lines and name not in os.environ:
            ours = f"{prefix_of(settings)}{field.replace('platform_', '').upper()}"
            yield f"{name} in .env is not read; name it {ours}"


def _find_quoted_secrets(settings: SettingsClass, environment: Texts) -> Iterator[str]:
    for field in settings.model_fields:
        for name in variables_of(settings, field) if is_secret(settings, field) else ():
            if is_quoted(environment.get(name, "")):
                yield f"{name} has quotation marks around it; remove them if they are no part of it"


def _find_unread(settings: SettingsClass, environment: Texts, dotenv: Texts) -> Iterator[str]:
    known, storable = known_variables(settings), storable_variables(settings)
    linked = tuple(f"{start}_{end}" for start in linked_services() for end in ("PORT", "SERVICE_"))
    given = {name for name in environment if not name.startswith(linked)}
    starts = (
        prefix_of(settings),
        *(f"{name}_FILE" for name in settings.platform_variables.values()),
    )
    ours = sorted(name for name in given | dotenv.keys() if name.startswith(starts))
    nested = settings.model_config.get("env_nested_delimiter")
    unread = (name for name in ours if known.isdisjoint({name, name.split(nested)[0]}))
    for count, name in enumerate(unread):
        advice = suggest(name, storable) if count < MOST_WARNINGS else None
        place = "" if name in given else " in .env"
        hint = f"; {advice}" if advice else ""
        yield f"{name}{place} is not a setting of this service and is ignored{hint}"


def _explain_value(found: Any, settings: SettingsClass) -> str:
    """Return a line for a wrong value: its variable, and pydantic's words or plainer ones."""
    message: str = found["msg"]
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    message = _PHRASES.get(found["type"], message)
    if not found["loc"]:
        return message
    name = found["loc"][0]
    is_field = name in settings.model_fields
    return f"{variables_of(settings, name)[0] if is_field else str(name).upper()}: {message}"


def _explain_source(error: SettingsError, settings: SettingsClass) -> str:
    """Return a line that names the variable; the library's text of broken JSON has the field."""
    field = re.search(r'field "(\w+)"', str(error))
    if field is None or field[1] not in settings.model_fields:
        return str(error)
    return f'{variables_of(settings, field[1])[0]}: must be JSON, such as ["a", "b"]'
