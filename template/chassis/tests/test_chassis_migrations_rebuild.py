"""SQLite tables that a migration copies: what hangs on them is kept, or it is refused."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.util import CommandError
from chassis_depot import Depot, written
from pydantic import SecretStr

from chassis import ChassisSettings
from chassis.db.migrations.upgrade import upgrade
from chassis.testing.databases import NO_SECRETS_DIR

TABLE = """
    op.execute('CREATE TABLE item (id INTEGER PRIMARY KEY, name VARCHAR, note VARCHAR)')
    op.execute('CREATE TABLE seen (name VARCHAR)')"""
TRIGGER = "CREATE TRIGGER {} AFTER INSERT ON {} BEGIN INSERT INTO seen VALUES ({}); END"
CHANGE = """
    with op.batch_alter_table('item') as batch:
        batch.alter_column('note', type_=sa.Text())"""
DROP_NOTE = """
    with op.batch_alter_table('item') as batch:
        batch.drop_column('note')"""


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        depot.add("1", TABLE)
        yield depot


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stock.db"


@pytest.fixture
def settings(file: Path) -> ChassisSettings:
    return ChassisSettings(
        database_url=SecretStr(f"sqlite:///{file.as_posix()}"), secrets_dir=NO_SECRETS_DIR
    )


def execute(file: Path, *statements: str) -> list[tuple[str, ...]]:
    """Run statements and return the rows of the last one."""
    with closing(sqlite3.connect(file)) as connection, connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def schema(file: Path) -> set[tuple[str, ...]]:
    query = (
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT IN ('item', 'alembic_version')"
    )
    return set(execute(file, query))


@pytest.mark.parametrize(
    "attached",
    [
        TRIGGER.format("note_item", "item", "NEW.name"),
        'CREATE TRIGGER "note ""item""" AFTER UPDATE OF name ON item BEGIN SELECT 1; END',
        TRIGGER.format("note_seen", "seen", "(SELECT max(name) FROM item)").replace(
            "INSERT ON", "DELETE ON"
        ),
        "CREATE UNIQUE INDEX ix_lower ON item (lower(name))",
        "CREATE INDEX ix_mixed ON item (note, lower(name)) WHERE id > 3",
        "CREATE INDEX ix_newest ON item (id DESC, name)",
        "CREATE UNIQUE INDEX ix_any_case ON item (name COLLATE NOCASE)",
        "CREATE INDEX ix_some ON item (name) WHERE note IS NOT NULL",
        "CREATE VIEW names AS SELECT name FROM item",
        "CREATE VIEW nested AS SELECT * FROM (SELECT i.name FROM item AS i)",
    ],
)
def test_what_hangs_on_a_table_outlives_its_rebuild(
    depot: Depot, settings: ChassisSettings, file: Path, attached: str
) -> None:
    upgrade(depot.package, settings)
    execute(file, attached)
    before = schema(file)
    depot.add("2", CHANGE)
    depot.add("3", CHANGE)

    upgrade(depot.package, settings)

    assert schema(file) == before


def test_a_trigger_fires_and_a_view_answers_after_a_rebuild(
    depot: Depot, settings: ChassisSettings, file: Path
) -> None:
    trigger = TRIGGER.format("note_item", "item", "NEW.name")
    depot.add(
        "2", f"op.execute({trigger!r}); op.execute('CREATE VIEW names AS SELECT name FROM item')"
    )
    depot.add("3", CHANGE)
    upgrade(depot.package, settings)

    rows = execute(file, "INSERT INTO item (name) VALUES ('a')", "SELECT * FROM seen, names")

    assert rows == [("a", "a")]


@pytest.mark.parametrize(
    ("attached", "says"),
    [
        ("CREATE VIEW notes AS SELECT note FROM item", "breaks the view notes .no such column"),
        ("CREATE VIEW loud AS SELECT upper(note) FROM item", "breaks the view loud"),
        (TRIGGER.format("tell", "item", "NEW.note"), "breaks the trigger tell .no such column"),
        (TRIGGER.format("ask", "seen", "(SELECT note FROM item)"), "breaks the trigger ask"),
        ("CREATE INDEX ix_lower ON item (lower(note))", "would lose the index ix_lower"),
    ],
)
def test_a_rebuild_that_would_break_something_is_refused_by_name(
    depot: Depot, settings: ChassisSettings, file: Path, attached: str, says: str
) -> None:
    upgrade(depot.package, settings)
    execute(file, attached, "INSERT INTO item (name, note) VALUES ('a', 'b')")
    before = schema(file)
    depot.add("2", DROP_NOTE)

    with pytest.raises(CommandError, match=f"the table item {says}.*drop it before"):
        upgrade(depot.package, settings)

    assert schema(file) == before
    assert execute(file, "SELECT note FROM item") == [("b",)]
    assert execute(file, "SELECT version_num FROM alembic_version") == [("1",)]


@pytest.mark.parametrize(
    ("kind", "name", "old", "new"),
    [
        (
            "TRIGGER",
            "tell",
            TRIGGER.format("tell", "item", "NEW.note"),
            TRIGGER.format("tell", "item", "NEW.name"),
        ),
        (
            "INDEX",
            "ix_lower",
            "CREATE INDEX ix_lower ON item (lower(name))",
            "CREATE UNIQUE INDEX ix_lower ON item (lower(name))",
        ),
        (
            "VIEW",
            "notes",
            "CREATE VIEW notes AS SELECT note FROM item",
            "CREATE VIEW notes AS SELECT name FROM item",
        ),
    ],
)
@pytest.mark.parametrize("dropped", ["before", "after"])
def test_a_revision_may_make_it_anew(
    depot: Depot,
    settings: ChassisSettings,
    file: Path,
    kind: str,
    name: str,
    old: str,
    new: str,
    dropped: str,
) -> None:
    drop = f"\n    op.execute('DROP {kind} IF EXISTS {name}')"
    body = f"{drop}{DROP_NOTE}" if dropped == "before" else f"{DROP_NOTE}{drop}"
    depot.add("2", f"op.execute({old!r})")
    depot.add("3", f"{body}\n    op.execute({new!r})")

    upgrade(depot.package, settings)

    assert (kind.lower(), name, new) in schema(file)


@pytest.mark.parametrize("name", ["tell", "ix_lower"])
def test_a_revision_that_knows_of_the_loss_still_runs(
    depot: Depot, settings: ChassisSettings, file: Path, name: str
) -> None:
    trigger = TRIGGER.format("tell", "item", "NEW.name")
    index = "CREATE INDEX ix_lower ON item (lower(name))"
    anew = {
        "tell": f"op.execute({trigger!r})",
        "ix_lower": "op.create_index('ix_lower', 'item', [sa.text('lower(name)')])",
    }
    depot.add("2", f"op.execute({trigger!r}); op.execute({index!r})")
    depot.add("3", f"{CHANGE}\n    {anew[name]}")

    upgrade(depot.package, settings)

    assert {"tell", "ix_lower"} <= {row[1] for row in schema(file)}


@pytest.mark.parametrize(
    ("column", "option"),
    [
        ("id INTEGER PRIMARY KEY AUTOINCREMENT", "AUTOINCREMENT"),
        ("name VARCHAR DEFAULT 'AUTOINCREMENT' COLLATE NOCASE", "COLLATE"),
    ],
)
def test_an_option_that_a_rebuild_loses_is_in_the_log(
    depot: Depot,
    settings: ChassisSettings,
    caplog: pytest.LogCaptureFixture,
    column: str,
    option: str,
) -> None:
    depot.add("2", f'op.execute("CREATE TABLE part ({column}, note VARCHAR)")')
    depot.add("3", CHANGE.replace("'item'", "'part'"))

    with caplog.at_level(logging.WARNING, "chassis"):
        upgrade(depot.package, settings)

    (line,) = caplog.messages
    assert line.startswith(f"the rebuild of the table part lost {option}; unless that is meant")


def test_a_computed_column_outlives_a_rebuild(
    depot: Depot, settings: ChassisSettings, file: Path
) -> None:
    depot.add(
        "2",
        'op.execute(\'CREATE TABLE "my sum" (a NUMERIC(9, 2), '
        '"it, s" VARCHAR, b INTEGER GENERATED ALWAYS AS (a * 2) STORED,\\n'
        "c INTEGER GENERATED ALWAYS AS (a + 1) VIRTUAL)')",
    )
    upgrade(depot.package, settings)
    execute(file, 'INSERT INTO "my sum" (a, "it, s") VALUES (4, \'x,y\')')
    depot.add(
        "3",
        "with op.batch_alter_table('my sum') as batch:\n"
        "        batch.alter_column('a', type_=sa.String(20), existing_type=sa.Numeric(9, 2))",
    )

    upgrade(depot.package, settings)

    assert execute(file, """SELECT a || "it, s" || b || ':' || c FROM "my sum\"""") == [
        ("4x,y8:5",)
    ]
