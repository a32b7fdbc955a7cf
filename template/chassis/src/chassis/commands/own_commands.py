"""Commands of the service's own: what gives them the settings, and runs an `async def`."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from inspect import iscoroutine
from typing import Any, Concatenate, ParamSpec, cast

import click

from ..db.address.log_lines import log_database
from ..settings import ChassisSettings
from .service import ServiceReference, SettingsT, load_settings

Options = ParamSpec("Options")

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


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
