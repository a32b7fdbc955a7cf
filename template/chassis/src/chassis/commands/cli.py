"""The commands of a service: serve, dev, work, jobs, migrate, copy-to-postgres, doctor, chassis."""

import subprocess
import sys
from inspect import iscoroutinefunction
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from .. import __version__
from ..db.address.settings import DatabaseSettings
from ..db.errors import (
    DatabaseSettingsError,
    DatabaseUnavailableError,
    Failure,
    classify,
    describe_error,
    is_missing_table,
)
from ..observe.logs import LogOptions, configure_logging
from ..settings import ChassisSettings
from ..versions import find_version
from .migrate import check_service, migrate_service, print_sql
from .service import (
    InvalidSettingsError,
    ServiceReference,
    load_settings,
    print_warnings,
    read_settings,
)

host_option = click.option("--host", help="Address to listen on, else APP_SERVER_HOST.")
port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="NUMBER",
    help="Port to listen on, else APP_SERVER_PORT, PORT or 8000.",
)

answers_option = click.option(
    "-a", "--answers-file", metavar="NAME", help="Copier's answers file, if it was renamed."
)


def create_cli(app: str, *, settings: type[ChassisSettings]) -> click.Group:
    """Build a service's command line, for its console script; more commands can be added to it.

    `app` names the factory, as in `my_service.main:create_service`. Exit codes: 1 for a failure,
    2 for wrong settings or options, 3 if the server can't start.
    """
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_versions,
        help="Show the versions of the service and of its chassis.",
    )
    group = ServiceGroup(
        help="Run this service. Its settings are APP_* variables, also in .env.",
        params=[version],
        context_settings={"obj": ServiceReference(app, settings)},
    )
    from .doctor_command import doctor
    from .jobs import jobs
    from .work import work

    for command in (serve, dev, work, jobs, migrate, copy_to_postgres, doctor, chassis):
        group.add_command(command)
    return group


class NoCheckoutError(click.ClickException):
    """The command needs the service's checkout; no matter of its options, so no usage is shown."""

    exit_code = 2


class ServiceGroup(click.Group):
    """Commands whose expected failures are one message and no traceback."""

    # What `@run.group()` makes is a ServiceGroup, too.
    group_class = type

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command. Raise TypeError for a name that is taken, and for a bare `async def`."""
        name = name or cmd.name or ""
        if name in self.commands:
            raise TypeError(f"there is a command {name} already: choose another name")
        if iscoroutinefunction(cmd.callback):
            raise TypeError(f"{name} is `async def`: write @pass_settings above it, which runs it")
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except DatabaseSettingsError as error:
            raise InvalidSettingsError(str(error)) from error
        except DatabaseUnavailableError as error:
            raise click.ClickException(str(error)) from error
        except SQLAlchemyError as error:
            if is_missing_table(error):
                advice = f"run {ctx.find_root().info_name} migrate first"
                message = f"the database's schema is not there: {describe_error(error)}; {advice}"
            elif classify(error) in (Failure.UNAVAILABLE, Failure.TIMEOUT):
                message = f"the database can't do this now: {describe_error(error)}"
            else:
                raise
            raise click.ClickException(message) from error


@click.command()
@host_option
@port_option
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Processes to run, else APP_SERVER_WORKERS or 1.",
)
@click.option("--reload", is_flag=True, help="Restart one process when the code changes.")
@click.pass_obj
def serve(
    service: ServiceReference, host: str | None, port: int | None, workers: int | None, reload: bool
) -> None:
    """Serve HTTP requests."""
    options = {"server_host": host, "server_port": port, "server_workers": workers}
    settings = load_settings(service.settings, **options)
    _run_server(service, settings, reload=reload)


@click.command()
@host_option
@port_option
@click.pass_obj
def dev(service: ServiceReference, host: str | None, port: int | None) -> None:
    """Migrate, then serve and restart when the code changes."""
    settings = load_settings(service.settings, server_host=host, server_port=port)
    migrate_service(service.package, read_settings(DatabaseSettings), wait=False)
    _run_server(service, settings, reload=True)


@click.command()
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until the database answers, for APP_DATABASE_WAIT_SECONDS at most.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Check the migrations instead, on scratch databases of SQLite and PostgreSQL: one head, "
    "no drift, up, down and up again; and new ones for what hurts traffic.",
)
@click.option(
    "--database",
    metavar="sqlite|postgres|URL",
    help="Check on this one alone: sqlite, postgres (the embedded server of the test kit), or the "
    "postgresql:// URL of a server, with a role that may create databases.",
)
@click.option(
    "--lint-after",
    metavar="REVISION",
    help="Lint the revisions after this one, base for all; else those that Git's main branch does "
    "not have.",
)
@click.option("--sql", is_flag=True, help="Print the SQL instead, and run nothing.")
@click.pass_obj
def migrate(
    service: ServiceReference,
    wait: bool,
    check: bool,
    database: str | None,
    lint_after: str | None,
    sql: bool,
) -> None:
    """Bring the database's schema up to date."""
    if lint_after is not None and not check:
        raise click.UsageError("--lint-after is for --check: write migrate --check --lint-after …")
    if sql and check:
        raise click.UsageError("--sql and --check exclude each other: leave one out")
    if database is not None and not check:
        raise click.UsageError(
            "--database is for --check: write migrate --check --database …; what migrate works on "
            "is named by APP_DATABASE_URL"
        )
    print_warnings(service.settings)
    configure_logging(LogOptions())
    settings = read_settings(DatabaseSettings)
    if check:
        check_service(service.package, settings, database, wait=wait, lint_after=lint_after)
    elif sql:
        print_sql(service.package, settings, wait=wait)
    else:
        migrate_service(service.package, settings, wait=wait)


@click.command(short_help="Copy the SQLite file to PostgreSQL.")
@click.argument("target_url", required=False)
@click.option("--check", "only_check", is_flag=True, help="Look at each value, and copy nothing.")
@click.option("--overwrite", is_flag=True, help="Empty tables of the target that have rows.")
@click.option("--skip", "left_out", multiple=True, metavar="TABLE", help="Leave a table out.")
@click.pass_obj
def copy_to_postgres(
    service: ServiceReference,
    target_url: str | None,
    only_check: bool,
    overwrite: bool,
    left_out: tuple[str, ...],
) -> None:
    """Copy the SQLite file to PostgreSQL, for a service that outgrew it.

    TARGET_URL is postgresql://user:password@host/name; others see it in the list of processes, so
    set APP_DATABASE_COPY_TARGET_URL instead. Stop the service first. After a kill, run it again.
    """
    from .copy_to_postgres import copy_service

    print_warnings(service.settings)
    configure_logging(LogOptions())
    copy_service(
        service.package,
        read_settings(DatabaseSettings),
        target_url,
        overwrite=overwrite,
        only_check=only_check,
        left_out=left_out,
    )


@click.group(short_help="Compare chassis/ with its release.")
def chassis() -> None:
    """Compare chassis/ with its release, and this service with a newer one."""


@chassis.command()
@answers_option
def status(answers_file: str | None) -> None:
    """Name what differs from the release in chassis/, and the newest release.

    Exits with 0 if nothing differs, with 1 if something does, with 2 if it can't tell.
    """
    _run_template_status("status", answers_file)


@chassis.command()
@answers_option
def diff(answers_file: str | None) -> None:
    """Show what the newest release would render otherwise, outside chassis/.

    An update never changes these files; take by hand what you like. Changes nothing. Copier is
    needed: the one on the PATH, else uvx.
    """
    _run_template_status("diff", answers_file)


def _run_template_status(command: str, answers_file: str | None) -> None:
    """Run the tool in the checkout's chassis/, which also runs when this package is broken."""
    here = Path.cwd()
    arguments = [command] if answers_file is None else [command, "--answers-file", answers_file]
    for folder in (here, *here.parents):
        if (script := folder / "chassis" / "tools" / "template_status.py").is_file():
            raise SystemExit(subprocess.run([sys.executable, script, *arguments]).returncode)
    raise NoCheckoutError(
        "there is no chassis/tools/template_status.py here or above: run this in the service's "
        "checkout, with chassis/ where it was rendered (an image holds neither)"
    )


def _run_server(service: ServiceReference, settings: ChassisSettings, *, reload: bool) -> None:
    from .serve import run  # uvicorn would slow --help down

    run(service.app, settings, reload=reload)


def _print_versions(context: click.Context, option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    service: ServiceReference = context.obj
    versions = f"{find_version(service.package) or '(not installed)'}, chassis {__version__}"
    click.echo(f"{context.info_name} {versions}")
    context.exit()
