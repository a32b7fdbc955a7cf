"""The environment variables of a settings class: their names, and what is wrong with them."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from annotated_types import Ge, Le
from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource, SettingsError

from .db.settings import DatabaseSettings

SettingsClass = type[DatabaseSettings]

_PHRASES = {
    "bool_parsing": "must be true or false",
    "missing": "must be set, it has no default",
}
_NUMBERS: dict[object, str] = {int: "a whole number", float: "a number"}
_NUMBER_ERRORS = ("int_parsing", "float_parsing", "greater_than_equal", "less_than_equal")


def explain(error: ValidationError | SettingsError, settings: SettingsClass) -> str:
    """Say which variables are wrong and how to set them right; never what they hold."""
    match error:
        case ValidationError():
            lines = [_line(found, settings) for found in _errors(error)]
        case _:
            lines = [_unreadable(error, settings)]
    return "\n  ".join(["the settings are not valid", *lines])


def unread_variables(settings: SettingsClass) -> Iterator[str]:
    """Give a warning for each variable that looks like a setting and is none; never its value."""
    environment = _names(EnvSettingsSource(settings))
    dotenv = _names(DotEnvSettingsSource(settings)) - environment
    known = {name for field in settings.model_fields for name in variables_of(settings, field)}
    for name in sorted(environment | dotenv):
        place = " in .env" if name in dotenv else ""
        if name.startswith(_prefix(settings)) and not _is_known(name, known, settings):
            near = get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{name}{place} is not a setting of this service and is ignored{hint}"
    for field, name in settings.platform_variables.items():
        if name in dotenv:
            ours = f"{_prefix(settings)}{field.replace('platform_', '').upper()}"
            yield f"{name} in .env is not read; name it {ours}"


def source_of(settings: DatabaseSettings, field: str) -> str:
    """Say where the value of a field came from: the environment, .env, a file, or its default."""
    kind = type(settings)
    names = set(variables_of(kind, field))
    is_platforms = field in kind.platform_variables and getattr(settings, field) is not None
    if is_platforms or names & _names(EnvSettingsSource(kind)):
        return "environment"
    if names & _names(DotEnvSettingsSource(kind)):
        return ".env"
    folder = settings.secrets_dir
    if folder.is_dir() and names & {file.name.upper() for file in folder.iterdir()}:
        return f"a file in {folder}"
    if field not in settings.model_fields_set:
        return "default"
    return settings.secrets_source or "code"


def variables_of(settings: SettingsClass, field: str) -> tuple[str, ...]:
    """Give the names of the variables that a field is read from."""
    if field in settings.platform_variables:
        return (settings.platform_variables[field],)
    match settings.model_fields[field].validation_alias:
        case str() as alias:
            return (alias.upper(),)
        case AliasChoices(choices=choices):
            return tuple(choice.upper() for choice in choices if isinstance(choice, str))
        case _:
            return (f"{_prefix(settings)}{field.upper()}",)


def _names(source: EnvSettingsSource) -> set[str]:
    return {name.upper() for name in source.env_vars}


def _prefix(settings: SettingsClass) -> str:
    return settings.model_config.get("env_prefix", "").upper()


def _is_known(name: str, known: set[str], settings: SettingsClass) -> bool:
    nested = settings.model_config.get("env_nested_delimiter")
    return name in known or bool(nested and name.split(nested)[0] in known)


def _errors(error: ValidationError) -> Iterator[Any]:
    for found in error.errors(include_url=False, include_input=False):
        # Follows from another error, which is listed as well.
        if found["type"] != "default_factory_not_called":
            yield found


def _line(found: Any, settings: SettingsClass) -> str:
    if not found["loc"]:
        return _message(found)
    name, *inner = found["loc"]
    field = settings.model_fields.get(name)
    if field is None:
        return f"{str(name).upper()}: {_message(found)}"
    message = (None if inner else _number(found, field)) or _message(found)
    return f"{variables_of(settings, name)[0]}: {message}"


def _message(found: Any) -> str:
    message: str = found["msg"]
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return _PHRASES.get(found["type"], message)


def _number(found: Any, field: FieldInfo) -> str | None:
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if kind in _NUMBERS]
    if found["type"] not in _NUMBER_ERRORS or not kinds:
        return None
    return f"must be {_NUMBERS[kinds[0]]}{_bounds(field)}"


def _bounds(field: FieldInfo) -> str:
    low = next((limit.ge for limit in field.metadata if isinstance(limit, Ge)), None)
    high = next((limit.le for limit in field.metadata if isinstance(limit, Le)), None)
    match low, high:
        case None, None:
            return ""
        case low, None:
            return f" of at least {low}"
        case None, high:
            return f" of at most {high}"
        case _:
            return f" from {low} to {high}"


def _unreadable(error: SettingsError, settings: SettingsClass) -> str:
    """Name the variable of a value that can't be decoded: the library's message has the field."""
    if isinstance(error.__cause__, SettingsError):
        return str(error.__cause__)
    field = re.search(r'field "(\w+)"', str(error))
    if field is None or field[1] not in settings.model_fields:
        return str(error)
    return f'{variables_of(settings, field[1])[0]}: must be JSON, such as ["a", "b"]'
