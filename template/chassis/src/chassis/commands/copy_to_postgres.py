"""The command `copy-to-postgres`: copy the SQLite file to PostgreSQL, and say what to set next."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ..db.address.settings import DatabaseSettings
from .migrate import explain_command_errors

if TYPE_CHECKING:
    from typing import Unpack

    from ..db.copying.copy import CopyOptions

_SECONDS_BETWEEN_LINES = 10.0


def copy_service(
    package: str,
    settings: DatabaseSettings,
    target_url: str | None,
    **options: "Unpack[CopyOptions]",
) -> None:
    """Copy the service's file. Raise click.ClickException for what is in the way."""
    from ..db.copying.copy import copy_to_postgres
    from ..db.copying.endpoints import resolve_target

    to = resolve_target(settings, target_url)
    click.echo(f"from {settings.database_target.masked} to {to.masked}")
    with _explain_failures():
        report = copy_to_postgres(package, settings, to, track=track_step, **options)
    for note in report.notes:
        click.echo(f"Note: {note}")
    counted = f"tables: {report.tables}, rows: {report.rows:,}"
    if options["only_check"]:
        click.echo(f"PostgreSQL takes all of it ({counted}); no row was written")
    else:
        click.echo(f"copied and compared in {report.seconds:.0f} s ({counted})")
        click.echo(_NEXT_STEPS.format(target=to.masked))


@contextmanager
def track_step(step: str, rows: int) -> Iterator[Callable[[int], None]]:
    """Print how far a step is, every ten seconds, and what it took."""
    shown = started = time.monotonic()
    done = 0

    def describe_rate() -> str:
        seconds = time.monotonic() - started
        return f"{done / max(seconds, 0.001):,.0f} rows/s"

    def advance(more: int) -> None:
        nonlocal done, shown
        done += more
        if (now := time.monotonic()) - shown >= _SECONDS_BETWEEN_LINES and done < rows:
            shown = now
            left = (rows - done) * (now - started) / done
            click.echo(f"{step}: {done:,} of {rows:,} rows, {describe_rate()}, {left:.0f} s left")

    yield advance
    click.echo(f"{step}: {done:,} rows in {time.monotonic() - started:.1f} s, {describe_rate()}")


@contextmanager
def _explain_failures() -> Iterator[None]:
    import psycopg

    from ..db.copying.errors import CopyError

    try:
        with explain_command_errors():
            yield
    except CopyError as error:
        raise click.ClickException(str(error)) from error
    except psycopg.Error as error:
        raise click.ClickException(_describe_failure(error)) from error


def _describe_failure(error: Exception) -> str:
    """Return what the server said, without the values of a row."""
    found = getattr(error, "diag", None)
    message = getattr(found, "message_primary", None) or str(error).partition("\n")[0]
    names = [getattr(found, f"{kind}_name", None) for kind in ("table", "column", "constraint")]
    place = ", ".join(name for name in names if name)
    return f"PostgreSQL: {message}{f' ({place})' if place else ''}; {_advise(error)}"


def _advise(error: Exception) -> str:
    from psycopg.errors import DiskFull, InsufficientPrivilege, OperationalError

    match error:
        case InsufficientPrivilege():
            return "copy as the role that owns the tables"
        case DiskFull():
            return "nothing is lost, make room on the server and run this command again to go on"
        case OperationalError():
            return "nothing is lost, run this command again to go on"
        case _:
            return "correct this, and run this command again with --overwrite"


_NEXT_STEPS = """
Next, before the service starts again:
  set    APP_DATABASE_URL to {target} with its password, and
         ?sslmode=verify-full&sslrootcert=… unless it is on this machine
  remove APP_DATABASE_SQLITE_PATH and the other APP_DATABASE_SQLITE_* variables, and
         APP_DATABASE_COPY_TARGET_URL
  run    doctor, then serve; keep the SQLite file until you are sure
The guide has the rest: chassis/docs/sqlite_to_postgresql.md"""
