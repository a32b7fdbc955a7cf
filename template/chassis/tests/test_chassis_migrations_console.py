"""`alembic` as people call it: it prints what it did, and an expected failure is one line."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import main
from chassis_depot import Depot, written
from chassis_forks import run_code
from chassis_stock import executing, only_on
from sqlalchemy import text

from chassis import ChassisSettings

ADD_BIN = "op.create_table('bin', sa.Column('id', sa.Integer, primary_key=True))"
BIN = "sa.Table('bin', metadata, sa.Column('id', sa.Integer, primary_key=True))"

Alembic = Callable[..., tuple[int, str, str]]


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        depot.configure(BIN)
        depot.add("1", ADD_BIN, "op.drop_table('bin')")
        depot.add("2", "pass")
        yield depot


@pytest.fixture
def alembic(
    depot: Depot,
    settings: ChassisSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Alembic:
    """Return the command, which reads its settings from the environment as it does everywhere."""
    assert settings.database_url is not None
    monkeypatch.setenv("APP_DATABASE_URL", settings.database_url.get_secret_value())
    ini = tmp_path / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {depot.versions.parent}\n", encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        code: object = 0
        try:
            main(["--config", str(ini), *arguments], prog="alembic")
        except SystemExit as end:
            code = end.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def print_all(config: Path, *commands: str) -> tuple[str, str]:
    """Return what a process prints that runs some commands: Alembic keeps the stdout it began with.

    An extra line ends what each of them prints.
    """
    program = (
        "import sys; from alembic.config import main\n"
        "for command in sys.argv[2:]:\n"
        "    main(['--config', sys.argv[1], *command.split()]); print('.')"
    )
    done = run_code(program, str(config), *commands, PYTHONPATH=str(config.parent))
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.usefixtures("alembic")
def test_it_prints_what_it_did(tmp_path: Path) -> None:
    commands = ("upgrade head", "upgrade head", "downgrade -1", "stamp head", "downgrade base")

    assert print_all(tmp_path / "alembic.ini", *commands) == (
        """\
upgraded base -> 1: 1
upgraded 1 -> 2: 2
.
nothing to do: the database is at 2
.
downgraded 2 -> 1: 2
.
stamped 1 -> 2
.
downgraded 2 -> 1: 2
downgraded 1 -> base: 1
.
""",
        "",
    )


@pytest.mark.usefixtures("alembic")
def test_other_commands_print_what_alembic_prints(tmp_path: Path) -> None:
    commands = ("--quiet upgrade head", "current", "check")

    assert print_all(tmp_path / "alembic.ini", *commands) == (
        ".\n2 (head)\n.\nNo new upgrade operations detected.\n.\n",
        "",
    )


def test_a_revision_is_generated_for_the_models_alone(alembic: Alembic, depot: Depot) -> None:
    alembic("upgrade", "head")

    code, out, err = alembic("revision", "--autogenerate", "-m", "more")

    assert (code, err) == (0, "")
    assert out.strip().endswith("done")
    assert "nothing to do" not in out


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (
            [BIN],
            "the revision is empty, as nothing differs that autogenerate compares: a model counts",
        ),
        (
            ["sa.Table('tub', metadata, sa.Column('id', sa.Integer, primary_key=True))"],
            'drops bin with all rows, and makes tub: for a rename write op.rename_table("bin", "tu',
        ),
        (
            ["sa.Table('bin', metadata, sa.Column('key', sa.Integer, primary_key=True))"],
            "drops id of bin with what it holds, and adds key: for a rename write "
            'op.alter_column("bin", "id", new_column_name="key")',
        ),
        (
            [BIN.replace("True)", "True), sa.Column('size', sa.Integer, nullable=False)")],
            "bin.size is NOT NULL without a default, which fails where the table has rows",
        ),
        (
            [BIN, "sa.Table('tub', metadata, sa.Column('id', sa.Integer, nullable=False))"],
            "tub.id becomes NOT NULL, which fails where a row has none",
        ),
    ],
    ids=["nothing", "a table", "a column", "a required column", "a column that is required now"],
)
def test_what_the_text_of_a_revision_does_not_show_is_said(
    alembic: Alembic,
    depot: Depot,
    caplog: pytest.LogCaptureFixture,
    models: list[str],
    says: str,
) -> None:
    depot.add(
        "3", "op.create_table('tub', sa.Column('id', sa.Integer))" if len(models) > 1 else "pass"
    )
    alembic("upgrade", "head")
    depot.configure(*models)

    code, _, _ = alembic("revision", "--autogenerate", "-m", "more")

    assert code == 0
    assert says in caplog.text


def test_a_revision_that_shows_all_is_written_without_a_word(
    alembic: Alembic, depot: Depot, caplog: pytest.LogCaptureFixture
) -> None:
    alembic("upgrade", "head")
    column = "sa.Column('size', sa.Integer, nullable=False, server_default='1')"
    depot.configure(BIN.replace("True)", f"True), {column}"), BIN.replace("bin", "tub"))

    alembic("revision", "--autogenerate", "-m", "more")
    alembic("revision", "-m", "by hand")

    assert [one for one in caplog.messages if "revision" in one or "NOT NULL" in one] == []


def test_revisions_that_migrate_would_not_find_are_refused(
    alembic: Alembic, depot: Depot, tmp_path: Path
) -> None:
    ini = tmp_path / "alembic.ini"
    own = ini.read_text(encoding="utf-8") + "path_separator = newline\nversion_locations = "
    ini.write_text(f"{own}{depot.versions}\n", encoding="utf-8")
    assert alembic("upgrade", "head")[0] == 0
    ini.write_text(f"{own}{depot.versions}\n    {tmp_path}\n", encoding="utf-8")

    code, _, err = alembic("current")

    assert (code, len(err.splitlines())) == (2, 1)
    assert f"alembic.ini: version_locations names {tmp_path}, where migrate" in err


@pytest.mark.parametrize("arguments", [("check",), ("revision", "--autogenerate", "-m", "more")])
def test_a_database_that_is_behind_is_one_line_with_the_command_to_run(
    alembic: Alembic, depot: Depot, settings: ChassisSettings, arguments: tuple[str, ...]
) -> None:
    before = list(depot.versions.glob("*.py"))
    says = "Error: the database is {}: run alembic upgrade head, then this again\n"
    assert alembic(*arguments) == (1, "", says.format("empty"))

    alembic("upgrade", "1")
    assert alembic(*arguments) == (1, "", says.format("at 1, behind the code"))

    with executing(settings) as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    code, out, err = alembic(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "alembic stamp" in err
    assert list(depot.versions.glob("*.py")) == before


def test_a_check_without_revisions_is_one_line_with_the_command_to_run(
    alembic: Alembic, depot: Depot
) -> None:
    for name in ("1", "2"):
        depot.forget(name)

    code, out, err = alembic("check")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "make the first with alembic revision --autogenerate" in err
    assert alembic("revision", "--autogenerate", "-m", "first")[0] == 0
    assert len(list(depot.versions.glob("*.py"))) == 1


@pytest.mark.parametrize(
    ("variable", "value", "code", "says"),
    [
        ("APP_DATABASE_URL", "postgres://me:s3cret@127.0.0.1:1/app", 1, "can't connect to .*:1/ap"),
        ("APP_DATABASE_URL", "no url, s3cret", 2, "APP_DATABASE_URL"),
        ("APP_DATABASE_URL", "postgres://me:s3cret@127.0.0.1/app?pgbouncer=true", 2, "pooler"),
        ("APP_DATABASE_POOL_SIZE", "many, s3cret", 2, "APP_DATABASE_POOL_SIZE: must be"),
        ("APP_ALEMBIC_DATABASE_URL", "sqlite://", 2, "APP_ALEMBIC_DATABASE_URL"),
        ("APP_DATABASE_BACKEND", "oracle", 2, "APP_DATABASE_BACKEND: must be"),
    ],
)
def test_what_is_wrong_is_one_line(
    alembic: Alembic,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    code: int,
    says: str,
) -> None:
    monkeypatch.setenv(variable, value)

    ended, out, err = alembic("upgrade", "head")

    assert (ended, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("Error: ")
    assert says.partition(" .*")[0] in err
    assert "s3cret" not in err


@pytest.mark.parametrize("arguments", [["upgrade", "head"], ["check"], ["current"]])
def test_every_command_says_in_one_line_that_the_database_is_away(
    alembic: Alembic, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", "postgres://me:s3cret@127.0.0.1:1/app")

    code, out, err = alembic(*arguments)

    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_an_unreadable_env_file_is_one_line(alembic: Alembic) -> None:
    Path(".env").write_bytes(b"APP_LOG_LEVEL=\xff\xfe")

    code, out, err = alembic("upgrade", "head")

    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert ".env" in err


@pytest.mark.parametrize("tables", ["with tables of the code", "with none of them"])
def test_an_unknown_revision_is_one_line(
    alembic: Alembic, settings: ChassisSettings, tables: str
) -> None:
    alembic("upgrade", "head")
    with executing(settings) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9f'"))
        if tables == "with none of them":
            connection.execute(text("DROP TABLE bin"))

    code, out, err = alembic("upgrade", "head")

    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "revision 9f, which this code does not have" in err
    assert ("alembic stamp --purge" in err) == (tables == "with tables of the code")
    assert ("another service's" in err) == (tables == "with none of them")


def test_one_step_back_from_a_merge_says_what_to_name(alembic: Alembic, depot: Depot) -> None:
    depot.branch_from("1")
    depot.add("3", "pass")
    alembic("merge", "2", "3", "-m", "merge")
    alembic("upgrade", "head")

    code, _, err = alembic("downgrade", "-1")

    assert (code, len(err.splitlines())) == (1, 1)
    assert "name the one to go back to" in err


def test_a_wrong_option_is_one_line(alembic: Alembic, depot: Depot) -> None:
    depot.configure(BIN, options="render_as_batch=True")

    code, out, err = alembic("upgrade", "head")

    assert (code, out) == (2, "")
    assert err.startswith("Error: migrations/env.py: run_migrations does not take render_as_batch")


def test_a_bug_in_a_revision_keeps_its_traceback(alembic: Alembic, depot: Depot) -> None:
    depot.add("3", "raise RuntimeError('a bug')")

    with pytest.raises(RuntimeError, match="a bug"):
        alembic("upgrade", "head")


def test_sql_is_all_that_is_printed_offline(alembic: Alembic, settings: ChassisSettings) -> None:
    only_on("postgres", settings)

    code, out, err = alembic("upgrade", "head", "--sql")

    assert (code, err) == (0, "")
    assert out.startswith("BEGIN;")
    assert "upgraded" not in out


def test_a_sqlite_file_that_stays_in_use_is_one_line(
    alembic: Alembic, settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_on("sqlite", settings)
    monkeypatch.setenv("APP_DATABASE_WAIT_SECONDS", "0.1")
    monkeypatch.setenv("APP_DATABASE_SQLITE_BUSY_TIMEOUT", "100")
    with closing(sqlite3.connect(settings.database_target.url.database or "")) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")

        code, _, error = alembic("upgrade", "head")

    assert code == 1
    assert "the file was in use for 0.1 seconds" in error
    assert "APP_DATABASE_WAIT_SECONDS" in error
    assert error.count("\n") == 1


def test_orphans_stop_what_runs_revisions_and_nothing_else(
    alembic: Alembic, depot: Depot, settings: ChassisSettings
) -> None:
    only_on("sqlite", settings)
    alembic("upgrade", "head")
    with executing(settings) as connection:
        connection.execute(text("CREATE TABLE part (bin_id INTEGER REFERENCES bin (id))"))
        connection.execute(text("INSERT INTO part VALUES (1)"))
    depot.add("3", "pass")

    for arguments in (("current",), ("history",), ("stamp", "2")):
        assert alembic(*arguments)[0] == 0
    code, _, error = alembic("upgrade", "head")
    assert code == 1
    assert error.startswith("Error: the migration leaves rows in part")
    assert error.count("\n") == 1
