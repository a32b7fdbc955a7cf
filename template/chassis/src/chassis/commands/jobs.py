"""The commands that show jobs, retry and cancel them. The part is imported when one is run."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..db.session_factories import open_sessions
from ..db.sessions import session_scope
from ..settings import ChassisSettings
from .service import pass_settings

if TYPE_CHECKING:
    from ..jobs.model import JobRecord

STATES = ("waiting", "running", "done", "dead", "cancelled")
LISTED = ("id", "state", "name", "queue", "attempts", "run_at", "error")
MOST_LISTED = 50

ids_argument = click.argument("ids", metavar="ID...", nargs=-1, required=True, type=int)
json_option = click.option("--json", "as_json", is_flag=True, help="Write it for programs.")


@click.group(short_help="List jobs, retry and cancel them.")
def jobs() -> None:
    """List the jobs of the service, show one, retry and cancel them."""


@jobs.command("list")
@click.option("--state", type=click.Choice(STATES), help="Those of this state.")
@click.option("--name", help="Those of this name.")
@click.option("--queue", help="Those of this queue.")
@click.option(
    "--limit", type=click.IntRange(1), default=MOST_LISTED, show_default=True, help="How many."
)
@json_option
@pass_settings
async def list_jobs(
    settings: ChassisSettings,
    state: str | None,
    name: str | None,
    queue: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    from ..jobs.model import JobState
    from ..jobs.records import find_jobs

    async with open_sessions(settings) as sessions, session_scope(sessions.read) as session:
        wanted = None if state is None else JobState(state)
        found = await find_jobs(session, state=wanted, name=name, queue=queue, limit=limit)
        rows = [_describe(job) for job in found]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print_table([{column: row[column] for column in LISTED} for row in rows])
    else:
        click.echo("no jobs")


@jobs.command()
@click.argument("job_id", metavar="ID", type=int)
@json_option
@pass_settings
async def show(settings: ChassisSettings, job_id: int, as_json: bool) -> None:
    """Show all there is of a job: its arguments, its request, its last error."""
    from ..jobs.model import JobRecord

    async with open_sessions(settings) as sessions, session_scope(sessions.read) as session:
        found = await session.get(JobRecord, job_id)
        if found is None:
            raise click.ClickException(f"there is no job {job_id}")
        row = _describe(found)
    if as_json:
        click.echo(json.dumps(row, indent=2))
    else:
        width = max(map(len, row))
        for name, value in row.items():
            click.echo(f"{name:{width}}  {_write(value)}")


@jobs.command()
@ids_argument
@pass_settings
async def retry(settings: ChassisSettings, ids: tuple[int, ...]) -> None:
    """Run jobs again that are dead or cancelled, or now if they wait, with all their retries."""
    from ..jobs.records import retry_jobs

    await _change(settings, ids, retry_jobs, "retried")


@jobs.command()
@ids_argument
@pass_settings
async def cancel(settings: ChassisSettings, ids: tuple[int, ...]) -> None:
    """Cancel jobs that wait or run; one that runs is stopped when it renews its lease."""
    from ..jobs.records import cancel_jobs

    await _change(settings, ids, cancel_jobs, "cancelled")


async def _change(
    settings: ChassisSettings,
    ids: Sequence[int],
    change: Callable[..., Awaitable[set[int]]],
    done: str,
) -> None:
    """Change jobs in one transaction; those that could not be changed are an error at the end."""
    from ..jobs.model import JobRecord
    from ..jobs.records import find_states

    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        changed = await change(session, JobRecord.id.in_(ids))
        left = [each for each in dict.fromkeys(ids) if each not in changed]
        states = await find_states(session, left)
        await session.commit()
    click.echo(f"{len(changed)} {done}")
    if left:
        reasons = (f"job {each} is {states.get(each, 'not there')}" for each in left)
        raise click.ClickException(f"not {done}: {', '.join(reasons)}")


def _describe(job: "JobRecord") -> dict[str, Any]:
    """Return the columns of a job as JSON has them."""
    values = {column.key: getattr(job, column.key) for column in job.__table__.columns}
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in values.items()
    }


def _write(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    texts = [list(rows[0]), *([_write(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        cells = (f"{text:{width}}" for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
