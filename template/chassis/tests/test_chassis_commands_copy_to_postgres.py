"""The command `copy-to-postgres`: what it reads, what it prints, and how it ends."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from chassis_depot import written
from chassis_stock import only_on
from chassis_warehouse import fill
from click.testing import CliRunner, Result
from pydantic import SecretStr

from chassis import ChassisSettings, create_cli
from chassis.db import DatabaseSettings
from chassis.db.migrations.connect import open_connection
from chassis.db.migrations.upgrade import upgrade

MARKED = "s3cret-value"


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    with written(tmp_path) as depot:
        depot.add("1", "from chassis_warehouse import metadata; metadata.create_all(op.get_bind())")
        here = DatabaseSettings(database_url=SecretStr("sqlite:///data/app.db"))
        upgrade(depot.package, here)
        fill(here, 30)
        yield depot.package


def invoke(package: str, *arguments: str) -> Result:
    command = create_cli(f"{package}.main:create_service", settings=ChassisSettings)
    return CliRunner().invoke(command, ["copy-to-postgres", *arguments])


def test_the_copy_says_what_it_did_and_what_to_set_next(
    package: str, settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_on("postgres", settings)
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value().replace("postgres:@", f"postgres:{MARKED}@")
    monkeypatch.setenv("APP_DATABASE_COPY_TARGET_URL", url)

    checked = invoke(package, "--check")
    assert (checked.exit_code, checked.stderr) == (0, ""), checked.output
    assert "PostgreSQL takes all of it (tables: 10, rows: 60); no row was written" in checked.stdout

    copied = invoke(package)
    assert copied.exit_code == 0, copied.output
    assert copied.stdout.startswith("from sqlite:///data/app.db to postgresql://")
    for line in ("checking: 60 rows in ", "copying: 60 rows in ", r"comparing: \d+ rows in "):
        assert re.search(f"\n{line}", copied.stdout)
    assert " s (tables: 10, rows: 60)" in copied.stdout
    assert "  set    APP_DATABASE_URL to postgresql://" in copied.stdout
    assert MARKED not in checked.output + copied.output

    again = invoke(package, url)
    assert again.exit_code == 1
    assert again.stderr.startswith("Error: the target is not empty, it has rows in ")


def test_what_would_be_refused_is_a_line_each(package: str, settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    assert settings.database_url is not None
    with closing(sqlite3.connect("data/app.db")) as database, database:
        database.execute("UPDATE kinds SET flag = 2, whole = 9999999999 WHERE id = 3")
    result = invoke(package, settings.database_url.get_secret_value())
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: PostgreSQL would refuse this; no row was written:",
        "  kinds.flag: neither 0 nor 1 in a column of booleans in 1 row (id=3); correct the value "
        "in the file",
        "  kinds.whole: an integer of more than 32 bits in 1 row (id=3); correct the value in the "
        "file, or make the column a BigInteger in a migration",
    ]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ((), "Error: APP_DATABASE_COPY_TARGET_URL: the copy goes to PostgreSQL; set it to "),
        (("sqlite:///other.db",), "Error: TARGET_URL: the copy goes to PostgreSQL; set it to "),
        (("not-a-url",), "Error: TARGET_URL: not a URL; write postgresql://"),
        ((f"postgresql://a:{MARKED}@127.0.0.1:1/b",), "Error: can't connect to postgresql://a@127"),
    ],
    ids=["none", "another file", "no URL", "nobody listens"],
)
def test_a_wrong_target_is_one_message(package: str, argument: tuple[str, ...], says: str) -> None:
    result = invoke(package, *argument)
    assert result.stderr.startswith(says)
    assert result.exit_code == (1 if "connect" in says else 2)
    assert MARKED not in result.output


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("APP_DATABASE_URL", f"postgresql://a:{MARKED}@h/b", "APP_DATABASE_URL: a SQLite file is"),
        ("APP_DATABASE_SQLITE_PATH", "no/such.db", "there is no SQLite file no/such.db: name"),
    ],
    ids=["PostgreSQL", "no file"],
)
def test_a_wrong_source_is_one_message(
    package: str, variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    result = invoke(package, "postgresql://a:b@127.0.0.1:1/b")
    assert result.stderr.startswith(f"Error: {says}")
    assert MARKED not in result.output
    assert not Path("no").exists()


def test_a_file_without_a_schema_is_one_message(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite3.connect("new.db").close()
    Path("text.db").write_text("this is no database at all" * 100)
    for file, says in (("new.db", "no revision"), ("text.db", "file is not a database")):
        monkeypatch.setenv("APP_DATABASE_SQLITE_PATH", file)
        result = invoke(package, "postgresql://a:b@127.0.0.1:1/b")
        assert (result.exit_code, says in result.stderr) == (1, True), result.output


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("53100", "; nothing is lost, make room on the server and run this command again to go on"),
        ("57P01", "; nothing is lost, run this command again to go on"),
        ("42501", "; copy as the role that owns the tables"),
        ("23514", "; correct this, and run this command again with --overwrite"),
    ],
    ids=["no room on the disk", "a shutdown", "not the owner", "a constraint"],
)
def test_a_failure_amid_the_rows_says_what_to_do_and_the_next_run_goes_on(
    package: str,
    settings: ChassisSettings,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    says: str,
) -> None:
    only_on("postgres", settings)
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()

    @contextmanager
    def fail(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        def advance(more: int) -> None:
            if step == "copying":
                execute(
                    settings,
                    "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$BEGIN RAISE 'as told' USING ERRCODE = '{failure}'; END$$",
                    "CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON trees "
                    "FOR EACH ROW EXECUTE FUNCTION fail()",
                )

        yield advance

    with monkeypatch.context() as patched:
        patched.setattr("chassis.commands.copy_to_postgres.track_step", fail)
        failed = invoke(package, url)
    assert (failed.exit_code, failed.stderr) == (1, f"Error: PostgreSQL: as told{says}\n")
    execute(settings, "DROP TRIGGER fail ON trees")
    copied = invoke(package, url)
    assert copied.exit_code == 0, copied.output
    # All but what was there already: kinds comes before trees.
    assert "\ncopying: 60 rows in " not in copied.stdout


def execute(settings: ChassisSettings, *statements: str) -> None:
    with open_connection(settings) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()
