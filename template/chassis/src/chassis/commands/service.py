"""The service that a command runs for: its factory, and how a command gets its settings."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from ..db.address.log_lines import log_database
from ..db.address.settings import DatabaseSettings
from ..observe.logs import LogOptions, configure_logging
from ..settings import ChassisSettings
from .variables import explain, find_warnings

DatabaseSettingsT = TypeVar("DatabaseSettingsT", bound=DatabaseSettings)
SettingsT = TypeVar("SettingsT", bound=ChassisSettings)
Options = ParamSpec("Options")

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


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


def pass_settings(
    function: Callable[Concatenate[SettingsT, Options], object],
) -> Callable[Options, object]:
    """Pass the service's settings to a command, first, and run the command if it is `async def`.

    It stands below `@run.command()`. The settings are read, warned about and logged by as in
    `serve`; those that a test passes to Click's CliRunner, `obj=settings`, are taken instead.
    """
    if isinstance(function, click.Command):
        raise TypeError("write @pass_settings below @run.command(), next to the function")

    @wraps(function)
    def call_with_settings(*args: Options.args, **options: Options.kwargs) -> object:
        result = function(cast(SettingsT, _find_settings()), *args, **options)
        return _run_coroutine(result) if iscoroutine(result) else result

    return call_with_settings


def _find_settings() -> ChassisSettings:
    context = click.get_current_context()
    if (given := context.find_object(ChassisSettings)) is not None:
        return given
    if (service := context.find_object(ServiceReference)) is None:
        raise TypeError("@pass_settings is for commands of the group that create_cli returns")
    settings = load_settings(service.settings)
    log_database(settings)
    return settings


def _run_coroutine(work: Coroutine[Any, Any, object]) -> object:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        work.close()
        raise RuntimeError(
            "an event loop runs here already; in an async test call the command in a thread: "
            "await asyncio.to_thread(CliRunner().invoke, run, […], obj=settings)"
        )
    return asyncio.run(_cancel_on_sigterm(work))


async def _cancel_on_sigterm(work: Coroutine[Any, Any, object]) -> object:
    """Await a command; SIGTERM cancels it, so that its `finally` blocks run, and exits with 143.

    Without a handler the first process of a container, which a command is, ignores the signal.
    """
    task, stopped = asyncio.create_task(work), False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    # Not in a thread other than the main one, and not on Windows.
    with suppress(RuntimeError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if stopped:
            raise SystemExit(SIGTERM_EXIT_CODE) from None
        raise
