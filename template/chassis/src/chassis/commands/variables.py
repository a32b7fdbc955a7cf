"""The environment variables of a settings class: what is wrong with them, and what is not read."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from ..db.address.dotenv import read_dotenv
from ..db.address.settings import DatabaseSettings
from ..db.address.sources import (
    is_quoted,
    is_secret,
    is_service_link,
    linked_services,
    prefix_of,
    read_dotenv_texts,
    read_environment,
    read_secret_files,
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
        return _undecoded(error, settings)
    found = error.errors(include_url=False, include_input=False)
    # Follows from another error, which is listed as well.
    every = [one for one in found if one["type"] != "default_factory_not_called"]
    lines = [_line(one, settings) for one in every]
    return "\n  ".join(["the settings are not valid", *lines])


def find_warnings(settings: SettingsClass) -> Iterator[str]:
    """Yield a warning for each variable that is not read as it seems to be; never its value.

    Raises SettingsError if `.env` can't be read.
    """
    environment = read_environment(settings)
    found = [
        *_service_warnings(),
        *_dotenv_warnings(settings),
        *_quote_warnings(settings, environment),
        *_unread_warnings(settings, environment),
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
    if names & read_dotenv_texts(kind).keys():
        return ".env"
    if names & read_secret_files(kind, folder).keys():
        return f"a file in {folder}"
    if field not in settings.model_fields_set:
        return "default"
    return settings.secrets_source or "code"


def _service_warnings() -> Iterator[str]:
    for start in sorted(linked_services()):
        if f"{start}_".startswith("APP_"):
            one = "PORT" if is_service_link(f"{start}_PORT") else "SERVICE_HOST"
            yield (
                f"{start}_{one} and others that Kubernetes sets for the Service "
                f"{start.lower().replace('_', '-')} are ignored; put enableServiceLinks: false "
                "into the Pod's spec"
            )


def _dotenv_warnings(settings: SettingsClass) -> Iterator[str]:
    lines = Counter(one.name.upper() for one in read_dotenv())
    for name, times in lines.items():
        if times > 1 and name.startswith(prefix_of(settings)):
            yield f"{name} is set {times} times in .env; the last one counts"
    for field, name in settings.platform_variables.items():
        if name in lines and name not in os.environ:
            ours = f"{prefix_of(settings)}{field.replace('platform_', '').upper()}"
            yield f"{name} in .env is not read; name it {ours}"


def _quote_warnings(settings: SettingsClass, environment: Mapping[str, str]) -> Iterator[str]:
    for field in settings.model_fields:
        for name in variables_of(settings, field):
            if is_secret(settings, field) and is_quoted(environment.get(name, "")):
                yield f"{name} has quotation marks around it; remove them if they are no part of it"


def _unread_warnings(settings: SettingsClass, environment: Mapping[str, str]) -> Iterator[str]:
    known = {name for field in settings.model_fields for name in variables_of(settings, field)}
    linked = tuple(f"{start}_{end}" for start in linked_services() for end in ("PORT", "SERVICE_"))
    given = {name for name in environment if not name.startswith(linked)}
    names = given | read_dotenv_texts(settings).keys()
    ours = sorted(name for name in names if name.startswith(prefix_of(settings)))
    nested = settings.model_config.get("env_nested_delimiter")
    unread = (name for name in ours if known.isdisjoint({name, name.split(nested)[0]}))
    for count, name in enumerate(unread):
        near = get_close_matches(name, sorted(known), n=1) if count < MOST_WARNINGS else []
        hint = f"; did you mean {near[0]}?" if near else ""
        place = "" if name in given else " in .env"
        yield f"{name}{place} is not a setting of this service and is ignored{hint}"


def _line(found: Any, settings: SettingsClass) -> str:
    if not found["loc"]:
        return _message(found)
    name = found["loc"][0]
    is_field = name in settings.model_fields
    variable = variables_of(settings, name)[0] if is_field else str(name).upper()
    return f"{variable}: {_message(found)}"


def _message(found: Any) -> str:
    message: str = found["msg"]
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return _PHRASES.get(found["type"], message)


def _undecoded(error: SettingsError, settings: SettingsClass) -> str:
    """Name the variable of a value that can't be decoded: the library's message has the field."""
    field = re.search(r'field "(\w+)"', str(error))
    if field is None or field[1] not in settings.model_fields:
        return str(error)
    return f'{variables_of(settings, field[1])[0]}: must be JSON, such as ["a", "b"]'
