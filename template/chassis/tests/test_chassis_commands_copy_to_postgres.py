"""The command `copy-to-postgres`: what it reads, what it prints, and how it ends."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chassis_depot import written
from chassis_stock import only_on
from chassis_warehouse import fill
from click.testing import CliRunner, Result
from pydantic import SecretStr

from chassis import ChassisSettings, create_cli
from chassis.db import DatabaseSettings
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
    for line in ("checking: 60 rows in ", "copying: 60 rows in ", "comparing: 60 rows in "):
        assert f"\n{line}" in copied.stdout
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
