"""The command `work`: an application's jobs without its requests."""

import signal
import time
from pathlib import Path

import chassis_postbox
import pytest
from chassis_forks import Fork
from chassis_processes import environment_of_sample, free_port, until
from chassis_stock import Item, create_tables, executing
from click.testing import CliRunner
from sqlalchemy import select

from chassis import ChassisSettings
from chassis.db import open_sessions, session_scope
from chassis.db.sqlite.pragmas import version_warning
from chassis.jobs import JobRecord
from chassis.testing.environment import write_variables


async def enqueue(settings: ChassisSettings, name: str, seconds: float) -> None:
    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        await chassis_postbox.deliver.enqueue(session, name=name, seconds=seconds)
        await session.commit()


def test_it_says_what_it_can_not_run() -> None:
    wrong = CliRunner().invoke(chassis_postbox.run, ["work", "--queue", "mial"])
    assert wrong.exit_code == 2
    assert "--queue: no job has the queue mial; there are default" in wrong.output
    log = Path("work.log")
    with Fork(
        "chassis_sample", "work", environment=environment_of_sample({}), output=log
    ) as process:
        assert process.wait() == 1
    assert "the application has no jobs: name them in main.py" in log.read_text()


@pytest.mark.anyio
async def test_it_runs_jobs_that_servers_leave_to_it_and_ends_what_it_is_at(
    settings: ChassisSettings, tmp_path: Path
) -> None:
    create_tables(settings)
    await enqueue(settings, "short", 0)
    await enqueue(settings, "long", 1)
    log = tmp_path / "work.log"
    variables = write_variables(settings) | {"APP_JOBS_IN_SERVER": "false"}
    environment = environment_of_sample(variables)
    with Fork("chassis_postbox", "work", environment=environment, output=log) as process:
        until(lambda: log.read_text().count("begun: ") == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, log.read_text()
    assert "runs jobs of default, 4 at once" in log.read_text()
    is_sqlite = settings.database_target.backend == "sqlite"
    is_warned = is_sqlite and version_warning(2) is not None
    assert ("beside a server, 2 processes write by SQLite" in log.read_text()) == is_warned
    with executing(settings) as connection:
        assert set(connection.scalars(select(JobRecord.state))) == {"done"}
        assert set(connection.scalars(select(Item.name))) == {"short", "long"}


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["work", "serve"])
async def test_it_names_a_job_that_catches_its_cancellation_and_ends_without_it(
    settings: ChassisSettings, tmp_path: Path, command: str
) -> None:
    create_tables(settings)
    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        await chassis_postbox.insist.enqueue(session)
        await session.commit()
    log = tmp_path / "log"
    limits = {
        "APP_JOBS_LEASE_SECONDS": "1",
        "APP_SERVER_GRACEFUL_TIMEOUT_SECONDS": "3",
        "APP_SERVER_PORT": str(free_port()),
    }
    environment = environment_of_sample(write_variables(settings) | limits)
    with Fork("chassis_postbox", command, environment=environment, output=log) as process:
        until(lambda: "insist: it caught CancelledError, and goes on" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 1
    assert "the process ends without job 1: caught CancelledError, and went on" in log.read_text()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("signs", "status"),
    [([signal.SIGTERM] * 2, 0), ([signal.SIGINT] * 2, 130), ([signal.SIGTERM, signal.SIGINT], 130)],
)
async def test_only_a_second_ctrl_c_cuts_its_stop_short(
    settings: ChassisSettings, tmp_path: Path, signs: list[signal.Signals], status: int
) -> None:
    """`uv run` hands a SIGTERM on that the process has got already, with its group."""
    create_tables(settings)
    seconds = 20 if status else 1
    await enqueue(settings, "long", seconds)
    log = tmp_path / "work.log"
    environment = environment_of_sample(write_variables(settings))
    with Fork("chassis_postbox", "work", environment=environment, output=log) as process:
        until(lambda: "begun: " in log.read_text())
        for sign in signs:
            process.send_signal(sign)
            time.sleep(0.2)  # noqa: ASYNC251
        assert process.wait() == status, log.read_text()
    assert "Traceback" not in log.read_text()
    assert ("stopped at once, as Ctrl-C was pressed again" in log.read_text()) == (status != 0)
    with executing(settings) as connection:
        state = "waiting" if status else "done"
        assert list(connection.scalars(select(JobRecord.state))) == [state]
