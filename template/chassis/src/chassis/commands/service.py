"""The service that a command runs for: its factory, and its settings as a command reads them."""

from dataclasses import dataclass
from typing import TypeVar

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from ..db.address.settings import DatabaseSettings
from ..observe.logs import LogOptions, configure_logging
from ..settings import ChassisSettings
from .variables import explain, find_warnings

DatabaseSettingsT = TypeVar("DatabaseSettingsT", bound=DatabaseSettings)
SettingsT = TypeVar("SettingsT", bound=ChassisSettings)


@dataclass(frozen=True)
class ServiceReference:
    """The service that the commands run: its factory, and the class of its settings."""

    app: str
    settings: type[ChassisSettings]

    @property
    def package(self) -> str:
        """The name of the service's package, such as `my_service`."""
        return self.app.partition(":")[0].partition(".")[0]


class InvalidSettingsError(click.ClickException):
    """The settings are wrong; the same exit code as for wrong options."""

    exit_code = 2


def load_settings(kind: type[SettingsT], **options: str | int | None) -> SettingsT:
    """Read the settings of a class, which options of the command overrule, and begin to log."""
    print_warnings(kind)
    settings = read_settings(kind)
    configure_logging(LogOptions.from_settings(settings))
    given = {name: value for name, value in options.items() if value is not None}
    return settings.model_copy(update=given)


def read_settings(settings: type[DatabaseSettingsT]) -> DatabaseSettingsT:
    """Read the settings of a class. Raise InvalidSettingsError if a value is wrong or missing."""
    try:
        return settings()
    except (ValidationError, SettingsError) as error:
        raise InvalidSettingsError(explain(error, settings)) from None


def print_warnings(settings: type[DatabaseSettings]) -> None:
    """Print a warning for each variable that is not read as it seems to be."""
    try:
        warnings = list(find_warnings(settings))
    except SettingsError as error:
        raise InvalidSettingsError(explain(error, settings)) from None
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
