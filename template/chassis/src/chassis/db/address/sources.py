"""Where settings come from: the environment, `.env` and secret files, as texts by variable.

A line break at the end of a text is none of its: `echo` writes one into a secret.
"""

import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args

from pydantic import AliasChoices, AliasPath, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from ..errors import DatabaseSettingsError
from .dotenv import DOTENV, read_dotenv

DEFAULT_SECRETS_DIR = Path("/run/secrets")

# What Kubernetes sets for each Service of the namespace: APP_SERVER_PORT for one named app-server.
_LINK_NAME = re.compile(r"(.+)_PORT(?:_\d+_(?:TCP|UDP|SCTP))?")
_LINK_TEXT = re.compile(r"(?:tcp|udp|sctp)://\[?([0-9a-f.:]+?)\]?:\d+")
QUOTES = ('""', "''")
TYPOGRAPHIC_QUOTES = ("\u201c\u201d", "\u201d\u201d", "\u201e\u201c", "\u2018\u2019", "``")

Texts = dict[str, str]
SettingsClass = type[BaseSettings]


class VariableSource(EnvSettingsSource):
    """Read the fields of a settings class from texts by variable."""

    def __init__(self, settings_cls: SettingsClass, texts: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.texts = texts

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the text of a field, its key, and whether it is JSON."""
        names = _names_of(self.settings_cls, field_name)
        for key, variable, is_json in names:
            if variable in self.texts:
                return self.texts[variable], key, is_json
        return None, names[0][0], False

    def explode_env_vars(
        self, field_name: str, field: FieldInfo, env_vars: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Return the parts of a nested field, from the same texts."""
        ours = {variable.lower(): text for variable, text in self.texts.items()}
        return super().explode_env_vars(field_name, field, ours)


class SecretFiles(VariableSource):
    """Read files named like the variables from `APP_SECRETS_DIR`; a missing folder is silent."""

    def __init__(self, settings_cls: SettingsClass) -> None:
        super().__init__(settings_cls, {})

    def __call__(self) -> dict[str, Any]:
        """Read the folder that the sources before this one name."""
        folder = Path(self.current_state.get("secrets_dir") or DEFAULT_SECRETS_DIR)
        self.texts = read_secret_files(self.settings_cls, folder)
        return super().__call__()


def variables_of(settings: SettingsClass, field: str) -> tuple[str, ...]:
    """Return the names of the variables that a field is read from."""
    return tuple(variable for _, variable, _ in _names_of(settings, field))


def read_environment(settings: SettingsClass) -> Texts:
    """Return the environment, by names in capitals, without what Kubernetes sets for Services.

    Raises SettingsError for two spellings of a variable that differ, and for quotation marks.
    """
    texts: Texts = {}
    for name, text in _capitalise(settings, os.environ):
        if texts.get(name, text) != text and name.startswith(prefix_of(settings)):
            raise SettingsError(f"{name} is set twice, in capitals and not, to different values")
        texts[name] = text
    for field in settings.model_fields:
        # Somebody may have meant it for a field that takes any text.
        if str not in _types_of(settings, field):
            for name in filter(is_service_link, variables_of(settings, field)):
                texts.pop(name, None)
    _refuse_quotes(settings, texts, (*QUOTES, *TYPOGRAPHIC_QUOTES), "")
    return texts


def read_dotenv_texts(
    settings: SettingsClass, source: PydanticBaseSettingsSource | None = None
) -> Texts:
    """Return what `.env` sets, by names in capitals; the last of several assignments counts.

    `Settings(_env_file=…)` names other files, which reach this by pydantic-settings' own source.
    Raises SettingsError for what read_dotenv refuses, and for typographic quotation marks.
    """
    assignments = [one for file in _dotenv_files(source) for one in read_dotenv(file)]
    texts = dict(_capitalise(settings, {one.name: one.text for one in assignments}))
    platforms = _platform_variables(settings).values()
    texts = {name: text for name, text in texts.items() if name not in platforms}
    _refuse_quotes(settings, texts, TYPOGRAPHIC_QUOTES, " in .env")
    return texts


def read_secret_files(settings: SettingsClass, folder: Path) -> Texts:
    """Return the texts of the files in a folder that are named like variables.

    Raises SettingsError for a file that is empty or can't be read.
    """
    if not folder.is_dir():
        return {}
    platforms = _platform_variables(settings).values()
    wanted = {name for field in settings.model_fields for name in variables_of(settings, field)}
    wanted.difference_update(platforms)
    try:
        files = {file.name.upper(): file for file in folder.iterdir()}
    except OSError:
        raise SettingsError(
            f"APP_SECRETS_DIR: {folder} can't be read; name a folder that this user may read"
        ) from None
    return {name: _read_secret(name, files[name]) for name in sorted(wanted & files.keys())}


def linked_services() -> set[str]:
    """Return how the variables start that Kubernetes sets for Services: APP_SERVER."""
    found = (_LINK_NAME.fullmatch(name) for name in os.environ if is_service_link(name))
    return {match[1] for match in found if match}


def is_service_link(name: str) -> bool:
    """Return whether a variable is, by its shape, one that Kubernetes sets for a Service."""
    text = os.environ.get(name, "").strip()
    found = _LINK_TEXT.fullmatch(text) if _LINK_NAME.fullmatch(name) else None
    try:
        address = ip_address(found[1]) if found else None
    except ValueError:
        return False
    return address is not None and not (address.is_loopback or address.is_unspecified)


def read_password(file: Path) -> str:
    """Read a password file, without the line break at its end."""
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise DatabaseSettingsError(
            "APP_DATABASE_POSTGRES_PASSWORD_FILE: the file can't be read; "
            "name one that exists and that this user may read"
        ) from None
    if not password:
        raise DatabaseSettingsError(
            "APP_DATABASE_POSTGRES_PASSWORD_FILE: the file is empty; write the password into it"
        )
    return password


def is_quoted(text: str, pairs: tuple[str, ...] = QUOTES) -> bool:
    """Return whether quotation marks stand around a whole text."""
    return len(text) > 1 and text[0] + text[-1] in pairs


def is_secret(settings: SettingsClass, field: str) -> bool:
    """Return whether a field holds a secret."""
    return field in settings.model_fields and SecretStr in _types_of(settings, field)


def _types_of(settings: SettingsClass, field: str) -> tuple[Any, ...]:
    annotation = settings.model_fields[field].annotation
    return (annotation, *get_args(annotation))


def _names_of(settings: SettingsClass, field: str) -> list[tuple[str, str, bool]]:
    """Return key, variable and whether the text is JSON, for each name that a field is read by."""
    if platform := _platform_variables(settings).get(field):
        return [(field, platform, False)]
    config, alias = settings.model_config, settings.model_fields[field].validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    keys = [
        (str(one.path[0]), len(one.path) > 1) if isinstance(one, AliasPath) else (one, False)
        for one in choices
        if one is not None
    ]
    names = [(key, key.upper(), is_json) for key, is_json in keys]
    if not names or config.get("populate_by_name") or config.get("validate_by_name"):
        names.append((field, f"{prefix_of(settings)}{field.upper()}", False))
    return names


def prefix_of(settings: SettingsClass) -> str:
    """Return how the variables of a settings class start, in capitals."""
    return settings.model_config.get("env_prefix", "").upper()


def _platform_variables(settings: SettingsClass) -> dict[str, str]:
    return getattr(settings, "platform_variables", {})


def _capitalise(settings: SettingsClass, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is set, by names in capitals; an empty variable is unset.

    The variables of platforms are named exactly: `port` is anybody's.
    """
    exact = _platform_variables(settings).values()
    for name, text in variables.items():
        stripped = text.rstrip("\r\n")
        if stripped and (name.upper() == name or name.upper() not in exact):
            yield name.upper(), stripped


def _dotenv_files(source: PydanticBaseSettingsSource | None) -> list[Path]:
    named = getattr(source, "env_file", ())
    if isinstance(named, str | os.PathLike):
        return [Path(named)]
    return [] if named is None else [Path(file) for file in named] or [DOTENV]


def _refuse_quotes(
    settings: SettingsClass, texts: Texts, pairs: tuple[str, ...], place: str
) -> None:
    for field in settings.model_fields:
        for name in variables_of(settings, field):
            if is_quoted(texts.get(name, ""), pairs) and not is_secret(settings, field):
                raise SettingsError(f"{name}{place}: remove the quotation marks around the value")


def _read_secret(variable: str, file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise SettingsError(
            f"{variable}: its file in {file.parent} can't be read; make it a UTF-8 text file "
            "that this user may read, or remove it"
        ) from None
    if not text.strip():
        raise SettingsError(
            f"{variable}: its file in {file.parent} is empty; write the value into it or remove it"
        )
    return text
