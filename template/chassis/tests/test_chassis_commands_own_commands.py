"""Commands of a service's own: what they are given, and how they end."""

import asyncio
import json
import re
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import click
import pytest
from chassis_forks import Fork
from chassis_processes import environment_of_sample, until
from chassis_sample.main import Settings
from click.testing import CliRunner, Result
from sqlalchemy import text

from chassis import ChassisSettings, create_cli, pass_settings
from chassis.db import open_sessions, session_scope

MARKED = "s3cret-value"


class StrictSettings(Settings):
    """A setting that has no default."""

    api_token: str


def create_group(settings: type[ChassisSettings] = Settings) -> click.Group:
    return create_cli("chassis_sample.main:create_service", settings=settings)


def invoke(group: click.Group, *arguments: str, **extra: object) -> Result:
    return CliRunner().invoke(group, arguments, **extra)  # type: ignore[arg-type]


def add_sync(group: click.Group) -> None:
    @group.command()
    @click.option("--times", default=1)
    @pass_settings
    def greet(settings: Settings, times: int) -> None:
        """Greet somebody."""
        click.echo(settings.greeting * times)


def add_async(group: click.Group) -> None:
    @group.command()
    @pass_settings
    @click.option("--times", default=1)
    async def greet(settings: Settings, *, times: int) -> None:
        """Greet somebody."""
        await asyncio.sleep(0)
        click.echo(settings.greeting * times)


def add_nested(group: click.Group) -> None:
    @group.group(invoke_without_command=True)
    @click.pass_context
    def greet(context: click.Context) -> None:
        """Greet somebody."""
        context.obj = "what the group keeps"
        context.invoke(inner)

    @greet.command()
    @pass_settings
    async def inner(settings: Settings) -> None:
        click.echo(settings.greeting)


every_form = pytest.mark.parametrize("add", [add_sync, add_async, add_nested])


@every_form
def test_a_command_is_given_the_services_settings(
    add: Callable[[click.Group], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("APP_GREETING=hi\n")
    monkeypatch.setenv("APP_GREETNG", MARKED)
    add(group := create_group())
    result = invoke(group, "greet")
    assert (result.exit_code, result.stdout) == (0, "hi\n")
    assert "Warning: APP_GREETNG is not a setting" in result.stderr
    assert MARKED not in result.output
    assert re.search(r"^  greet +Greet somebody\.$", invoke(group, "--help").stdout, re.M)


@pytest.mark.parametrize("add", [add_sync, add_async])
def test_its_options_stand_beside_the_settings(add: Callable[[click.Group], None]) -> None:
    add(group := create_group())
    assert invoke(group, "greet", "--times", "2").stdout == "hellohello\n"
    assert invoke(group, "greet", "--times", "x").exit_code == 2


@every_form
def test_settings_that_a_test_passes_are_taken_and_nothing_is_read(
    add: Callable[[click.Group], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Settings(greeting="given")
    monkeypatch.setenv("APP_SERVER_PORT", "http")
    monkeypatch.setenv("APP_GREETNG", "x")
    add(group := create_group())
    result = invoke(group, "greet", obj=given)
    assert (result.exit_code, result.output) == (0, "given\n")


@every_form
def test_a_setting_that_is_missing_is_one_message(add: Callable[[click.Group], None]) -> None:
    add(group := create_group(StrictSettings))
    result = invoke(group, "greet")
    assert (result.exit_code, result.stdout) == (2, "")
    expected = "Error: the settings are not valid\n  APP_API_TOKEN: must be set, it has no default"
    assert result.stderr.strip() == expected


def test_the_log_names_the_database(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    add_sync(group := create_group())
    invoke(group, "greet")
    assert "sqlite:///data/app.db" in caplog.text
    assert {record.name for record in caplog.records} == {"chassis.db.address.log_lines"}


def add_query(group: click.Group, statement: str = "CREATE TABLE notes (id int)") -> None:
    @group.command()
    @pass_settings
    async def query(settings: Settings) -> None:
        async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
            await session.execute(text(statement))


def test_a_database_that_is_away_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", f"postgres://user:{MARKED}@127.0.0.1:1/name")
    add_query(group := create_group())
    result = invoke(group, "query")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: can't connect to postgresql://user@127.0.0.1:1/name")
    assert MARKED not in result.output


def test_a_database_that_is_busy_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE_SQLITE_PATH", "app.db")
    monkeypatch.setenv("APP_DATABASE_SQLITE_BUSY_TIMEOUT", "1")
    add_query(group := create_group())
    with closing(sqlite3.connect("app.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")
        result = invoke(group, "query")
    assert result.exit_code == 1
    assert result.stderr == "Error: the database can't do this now: database is locked\n"


def test_a_statement_that_takes_too_long_is_one_message(settings: ChassisSettings) -> None:
    if settings.database_target.backend != "postgres":
        pytest.skip("SQLite has no limit to a statement's time")
    add_query(group := create_group(), "SELECT pg_sleep(10)")
    short = settings.model_copy(update={"database_statement_timeout_seconds": 0.1})
    result = invoke(group, "query", obj=short)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: the database can't do this now: [^\n]*timeout\n", result.stderr)


def test_a_table_that_is_missing_is_one_message_that_names_migrate(
    settings: ChassisSettings,
) -> None:
    add_query(group := create_group(), "SELECT * FROM bolts")
    result = invoke(group, "query", obj=settings)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the database's schema is not there: ")
    assert "bolts" in result.stderr
    assert result.stderr.endswith("; run root migrate first\n")
    assert result.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    add_query(group := create_group(), "SELECT missing")
    result = invoke(group, "query")
    assert result.exit_code == 1
    assert "no such column" in str(result.exception)


def test_the_traceback_of_a_bug_has_nothing_else() -> None:
    group = create_group()

    @group.command()
    @pass_settings
    async def fail(settings: Settings) -> None:
        raise LookupError("a bug")

    error = invoke(group, "fail").exception
    assert isinstance(error, LookupError)
    assert error.__context__ is None


def test_sigterm_ends_what_an_async_command_has_begun() -> None:
    log = Path("linger.log")
    arguments = ("chassis_sample", "linger", "--seconds=30")
    with Fork(*arguments, environment=environment_of_sample({}), output=log) as process:
        until(lambda: "has begun" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    messages = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert "sqlite:///data/app.db" in messages.pop(0)
    assert messages == ["the work has begun: hello", "the work was put down"]


def test_a_cancelled_task_within_a_command_is_no_stop() -> None:
    group = create_group()

    @group.command()
    @pass_settings
    async def wait(settings: Settings) -> None:
        task = asyncio.create_task(asyncio.sleep(1))
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        invoke(group, "wait")


def test_a_command_in_an_event_loop_says_how_to_call_it() -> None:
    add_async(group := create_group())

    async def call_directly() -> Result:
        return invoke(group, "greet")

    async def call_in_a_thread() -> Result:
        return await asyncio.to_thread(invoke, group, "greet")

    def run(call: Callable[[], Awaitable[Result]]) -> Result:
        async def wait() -> Result:
            return await call()

        return asyncio.run(wait())

    assert "await asyncio.to_thread(CliRunner().invoke, run" in str(run(call_directly).exception)
    assert run(call_in_a_thread).stdout == "hello\n"


def test_an_async_command_that_nothing_would_run_is_refused() -> None:
    async def report() -> None: ...

    group = create_group()

    @group.group()
    def inner() -> None: ...

    for one in (group, inner):
        with pytest.raises(TypeError, match=r"report is `async def`: write @pass_settings above"):
            one.command()(report)


def test_the_name_of_another_command_is_refused() -> None:
    group = create_group()
    with pytest.raises(TypeError, match="there is a command migrate already"):
        group.command()(migrate)


def migrate() -> None:
    """Stand for a command of the same name."""


def test_the_decorator_above_the_command_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write @pass_settings below @run\.command"):
        pass_settings(click.command()(migrate))


def test_a_command_of_another_group_is_refused() -> None:
    @click.command()
    @pass_settings
    def alone(settings: Settings) -> None: ...

    with pytest.raises(TypeError, match="the group that create_cli returns"):
        CliRunner(catch_exceptions=False).invoke(alone)
