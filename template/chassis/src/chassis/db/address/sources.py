"""Where settings come from: the environment, `.env` and secret files, as texts by variable.

A line break at the end of a text is no part of it: `echo` writes one into a secret.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import AliasChoices, AliasPath, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from ..errors import DatabaseSettingsError
from .dotenv import DOTENV, read_dotenv
from .quotes import QUOTES, TYPOGRAPHIC_QUOTES, is_quoted
from .service_links import is_service_link

DEFAULT_SECRETS_DIR = Path("/run/secrets")

# What of a class's `model_config` decides which variables are read.
_PLACES_OF_VARIABLES = ("env_prefix", "env_prefix_target", "env_file", "case_sensitive")

Texts = dict[str, str]
SettingsClass = type[BaseSettings]


class VariableSource(EnvSettingsSource):
    """Read the fields of a settings class from texts by variable."""

    def __init__(self, settings_cls: SettingsClass, texts: Texts | None = None) -> None:
        super().__init__(settings_cls)
        self.texts = texts or {}

    def __call__(self) -> dict[str, Any]:
        """Read all fields, if there is any text."""
        return super().__call__() if self.texts else {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the text of a field, its key, and whether it is JSON."""
        names = _find_names(self.settings_cls, field_name)
        for key, variable, is_json in names:
            if variable in self.texts:
                return self.texts[variable], key, is_json
        return None, names[0][0], False

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        """Return the value of a text. Without a text there is one only if parts have texts."""
        # Else the library looks into the types of each field that is not set, at each start.
        if value is None and not self.config.get("env_nested_delimiter"):
            return None
        return super().prepare_field_value(field_name, field, value, value_is_complex)

    def explode_env_vars(
        self, field_name: str, field: FieldInfo, env_vars: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Return the parts of a nested field, from the same texts."""
        ours = {variable.lower(): text for variable, text in self.texts.items()}
        return super().explode_env_vars(field_name, field, ours)


class SecretFiles(VariableSource):
    """Read files named like the variables from `APP_SECRETS_DIR`; a missing folder is silent."""

    def __call__(self) -> dict[str, Any]:
        """Read the folder that the sources before this one name."""
        folder = Path(self.current_state.get("secrets_dir") or DEFAULT_SECRETS_DIR)
        self.texts = read_secret_files(self.settings_cls, folder)
        return super().__call__()


class SecretStore(VariableSource):
    """Read secrets named like the variables from the store that `APP_SECRETS_SOURCE` names.

    Raise SettingsError if it can't be read: a default must not step in for a secret.
    """

    def __call__(self) -> dict[str, Any]:
        """Read the store that the sources before this one name."""
        source = self.current_state.get("secrets_source")
        if not source:
            return {}
        from .secrets import read_store

        self.texts = read_store(str(source), storable_variables(self.settings_cls))
        return super().__call__()


def read_environment(settings: SettingsClass) -> Texts:
    """Return the environment, by names in capitals, without what Kubernetes sets for Services.

    Raise SettingsError for two spellings of a variable that differ, and for quotation marks.
    """
    texts: Texts = {}
    for name, text in _select_set_variables(settings, os.environ):
        if texts.get(name, text) != text and name.startswith(prefix_of(settings)):
            raise SettingsError(f"{name} is set twice, in capitals and not, to different values")
        texts[name] = text
    links = set(filter(is_service_link, texts))
    for field in settings.model_fields if links else ():
        # Somebody may have meant it for a field that takes any text.
        if str not in _types_of(settings, field):
            for name in links.intersection(variables_of(settings, field)):
                texts.pop(name, None)
    _refuse_quotes(settings, texts, (*QUOTES, *TYPOGRAPHIC_QUOTES), "")
    return texts


def read_dotenv_texts(settings: SettingsClass, files: Any = ()) -> Texts:
    """Return what `.env` sets, by names in capitals; the last of several assignments counts.

    `files` are those of `Settings(_env_file=…)`; none are `.env`, and None reads nothing. What a
    platform sets is among them, though it is not read. Raise SettingsError for what read_dotenv
    refuses, and for typographic quotation marks.
    """
    named = [files] if isinstance(files, str | os.PathLike) else files
    paths = [] if named is None else [*named] or [DOTENV]
    assignments = [one for path in paths for one in read_dotenv(Path(path))]
    texts = dict(_select_set_variables(settings, {one.name: one.text for one in assignments}))
    _refuse_quotes(settings, texts, TYPOGRAPHIC_QUOTES, " in .env")
    return texts


def read_secret_files(settings: SettingsClass, folder: Path) -> Texts:
    """Return the texts of the files in a folder that are named like variables.

    Raise SettingsError for a file that is empty or can't be read.
    """
    if not folder.is_dir():
        return {}
    wanted = storable_variables(settings)
    try:
        files = {file.name.upper(): file for file in folder.iterdir()}
        return {
            name: _read_secret(files[name], f"{name}: its file in {folder}")
            for name in sorted(wanted & files.keys())
        }
    except OSError:
        raise SettingsError(
            f"APP_SECRETS_DIR: {folder} can't be read; name a folder that this user may read"
        ) from None
    except DatabaseSettingsError as error:
        raise SettingsError(str(error)) from None


def refuse_other_sources(settings: SettingsClass, base: SettingsClass) -> None:
    """Raise TypeError for a class that reads other variables than another one."""
    for key in _PLACES_OF_VARIABLES:
        if settings.model_config.get(key) != base.model_config.get(key):
            raise TypeError(
                f"{settings.__name__}.model_config changes {key}: migrations read APP_* variables, "
                "and messages name them; leave it out, and give a second database by its values, "
                "DatabaseSettings(database_url=…, database_read_url=None)"
            )


def read_password(file: Path) -> str:
    """Return the password in a file. Raise DatabaseSettingsError if there is none."""
    return _read_secret(file, "APP_DATABASE_POSTGRES_PASSWORD_FILE: the file")


def variables_of(settings: SettingsClass, field: str) -> tuple[str, ...]:
    """Return the names of the variables that a field is read from."""
    return tuple(variable for _, variable, _ in _find_names(settings, field))


def known_variables(settings: SettingsClass) -> set[str]:
    """Return the names of all variables that the fields of a settings class are read from."""
    return {name for field in settings.model_fields for name in variables_of(settings, field)}


def storable_variables(settings: SettingsClass) -> set[str]:
    """Return the variables that files may hold: a platform's come from the environment only."""
    return known_variables(settings).difference(_platform_variables(settings).values())


def is_secret(settings: SettingsClass, field: str) -> bool:
    """Return whether a field holds a secret."""
    return field in settings.model_fields and SecretStr in _types_of(settings, field)


def prefix_of(settings: SettingsClass) -> str:
    """Return how the variables of a settings class start, in capitals."""
    return settings.model_config.get("env_prefix", "").upper()


def _find_names(settings: SettingsClass, field: str) -> list[tuple[str, str, bool]]:
    """Return each name of a field: Pydantic's key, the variable, and whether its text is JSON."""
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


def _types_of(settings: SettingsClass, field: str) -> tuple[Any, ...]:
    annotation = settings.model_fields[field].annotation
    return (annotation, *get_args(annotation))


def _platform_variables(settings: SettingsClass) -> dict[str, str]:
    return getattr(settings, "platform_variables", {})


def _select_set_variables(
    settings: SettingsClass, variables: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return the variables that are not empty, with their names in capitals.

    A platform's variable counts only if it was written in capitals: `port` is anybody's.
    """
    exact = _platform_variables(settings).values()
    return [
        (name.upper(), stripped)
        for name, text in variables.items()
        if (stripped := text.rstrip("\r\n")) and (name.isupper() or name.upper() not in exact)
    ]


def _refuse_quotes(
    settings: SettingsClass, texts: Texts, pairs: tuple[str, ...], place: str
) -> None:
    quoted = {name for name, text in texts.items() if is_quoted(text, pairs)}
    for field in settings.model_fields if quoted else ():
        for name in variables_of(settings, field):
            if name in quoted and not is_secret(settings, field):
                raise SettingsError(f"{name}{place}: remove the quotation marks around the value")


def _read_secret(file: Path, subject: str) -> str:
    """Return a file's text without its last line break; `subject` names the file in errors."""
    try:
        text = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise DatabaseSettingsError(
            f"{subject} can't be read; name or make a UTF-8 text file that this user may read"
        ) from None
    if not text.strip():
        raise DatabaseSettingsError(f"{subject} is empty; write the value into it, or remove it")
    return text
