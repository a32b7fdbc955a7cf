"""A copy of a SQLite file to PostgreSQL: equal afterwards, or refused before the first row."""

import os
import random
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase, digits

import psycopg
import pytest
from chassis_depot import Depot, written
from chassis_forks import run_code
from chassis_logins import administered, role
from chassis_stock import only_on
from chassis_warehouse import counted, fill, read, tickets
from pydantic import SecretStr
from sqlalchemy import text

from chassis import ChassisSettings
from chassis.db import DatabaseSettings, DatabaseUnavailableError
from chassis.db.copying import source
from chassis.db.copying.copy import CopyReport, copy_to_postgres
from chassis.db.copying.encoder import gather_lines
from chassis.db.copying.errors import CopyError
from chassis.db.copying.source import open_source
from chassis.db.migrations.connect import open_connection
from chassis.db.migrations.revisions import UnfinishedCopyError
from chassis.db.migrations.upgrade import upgrade

CREATE = "from chassis_warehouse import metadata; metadata.create_all(op.get_bind())"
TESTS = Path(__file__).parent


class Move:
    """A service on a SQLite file, and the PostgreSQL database that it moves to."""

    def __init__(self, depot: Depot, file: Path, settings: ChassisSettings) -> None:
        self.depot = depot
        self.file = file
        self.here = DatabaseSettings(
            database_url=SecretStr(f"sqlite:///{file}"), secrets_dir=settings.secrets_dir
        )
        self.there = settings

    def copy(self, **options: object) -> CopyReport:
        """Copy, and say nothing."""
        to = self.there.database_target
        given = {"track": track, **options}
        return copy_to_postgres(self.depot.package, self.here, to, **given)  # type: ignore[arg-type]

    def execute(self, *statements: str) -> None:
        """Write to the file, past all that the service would refuse."""
        with closing(sqlite3.connect(self.file)) as database, database:
            for statement in statements:
                database.execute(statement)

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """Ask PostgreSQL."""
        with open_connection(self.there) as connection:
            return [tuple(row) for row in connection.execute(text(query))]


@contextmanager
def track(step: str, rows: int) -> Iterator[Callable[[int], None]]:
    yield lambda more: None


@pytest.fixture
def move(tmp_path: Path, settings: ChassisSettings) -> Iterator[Move]:
    only_on("postgres", settings)
    with written(tmp_path) as depot:
        depot.configure("from chassis_warehouse import metadata")
        depot.add("1", CREATE)
        move = Move(depot, tmp_path / "app.db", settings)
        upgrade(depot.package, move.here)
        yield move


def assert_equal(move: Move) -> None:
    assert read(move.here) == read(move.there)
    assert move.ask("SELECT to_regclass('chassis_copy')") == [(None,)]
    upgrade(move.depot.package, move.there)


def test_every_type_is_equal_afterwards(move: Move) -> None:
    fill(move.here, 2000)
    before = move.file.read_bytes()

    report = move.copy()

    assert_equal(move)
    assert (report.tables, report.rows) == (10, sum(map(len, read(move.here).values())))
    assert move.file.read_bytes() == before


def test_constraints_are_as_before(move: Move) -> None:
    query = """SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace ORDER BY conname"""
    upgrade(move.depot.package, move.there)
    before = move.ask(query)
    fill(move.here, 100)

    move.copy()

    assert move.ask(query) == before


INDEXES = """
op.create_table('sought', sa.Column('id', sa.Integer, primary_key=True), sa.Column('a', sa.Text),
    sa.Column('b', sa.Integer), sa.UniqueConstraint('b', 'a', name='pairs'))
if op.get_bind().dialect.name == 'postgresql':
    op.execute("CREATE UNIQUE INDEX partial ON sought (lower(a) DESC) WHERE b > 1")
    op.execute("CREATE INDEX filled ON sought USING gin ((ARRAY[a])) WITH (fastupdate = off)")
    op.execute("CREATE UNIQUE INDEX more ON sought (b, a text_pattern_ops) INCLUDE (id)")
    op.execute("COMMENT ON INDEX more IS 'it''s 100%% unique'")
    op.execute("COMMENT ON INDEX pairs IS 'pairs'")
    op.execute("COMMENT ON CONSTRAINT pairs ON sought IS 'pairs, once'")
    op.execute("ALTER TABLE sought ADD CONSTRAINT late UNIQUE (a, id) DEFERRABLE")
    op.execute("CREATE INDEX counted_more ON sought ((b + 1))")
    op.execute("ALTER INDEX counted_more ALTER COLUMN 1 SET STATISTICS 500")
    op.execute("CREATE INDEX sorted ON sought (b)")
    op.execute("ALTER TABLE sought CLUSTER ON sorted")
"""


def test_indexes_are_made_again_once_the_rows_are_there(move: Move) -> None:
    query = """SELECT pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class'),
        indisvalid, indisclustered, indimmediate, pg_get_constraintdef(c.oid),
        obj_description(c.oid, 'pg_constraint'), attstattarget
        FROM pg_index LEFT JOIN pg_constraint c ON conindid = indexrelid AND contype <> 'f'
        JOIN pg_attribute a ON a.attrelid = indexrelid AND a.attnum = 1
        WHERE indrelid::regclass::text IN ('kinds', 'trees', 'sought') ORDER BY indexrelid::text"""
    create_on_both(move, INDEXES.strip().replace("\n", "\n    "))
    upgrade(move.depot.package, move.there)
    before = sorted(move.ask(query), key=repr)
    fill(move.here, 100)
    move.execute("INSERT INTO sought VALUES (1, 'ü', 2), (2, 'b', 3)")
    seen = []

    @contextmanager
    def look(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        seen.append(len(move.ask(query)))
        yield lambda more: None

    move.copy(track=look)

    assert sorted(move.ask(query), key=repr) == before
    assert seen == [12, 5, 12]
    assert move.ask("SELECT a, b FROM sought ORDER BY id") == [("ü", 2), ("b", 3)]


def test_a_changed_file_is_checked_again_against_all_constraints(move: Move) -> None:
    """The first copy has taken them away."""
    fill(move.here, 20)
    stop_before("comparing", move)
    move.execute(
        "UPDATE trees SET parent_id = 77 WHERE id = 1",
        "UPDATE kinds SET uuid = upper((SELECT min(uuid) FROM kinds)) "
        "WHERE uuid = (SELECT max(uuid) FROM kinds)",
    )
    with pytest.raises(CopyError, match="would refuse this; no row was written") as caught:
        move.copy()
    assert "kinds.uuid: the same values twice" in str(caught.value)
    assert "no row of trees that it refers to" in str(caught.value)
    assert move.ask("SELECT count(*) FROM kinds") == [(0,)]

    move.execute("UPDATE trees SET parent_id = 2 WHERE id = 1", "UPDATE kinds SET uuid = NULL")
    move.copy()
    assert_equal(move)


def test_the_next_row_gets_the_next_number(move: Move) -> None:
    fill(move.here, 100)
    move.copy()
    for settings in (move.here, move.there):
        with open_connection(settings) as connection:
            [number] = connection.execute(counted.insert().returning(counted.c.id)).one()
            # AUTOINCREMENT never gives the number of a deleted row again.
            assert number == 10
    with open_connection(move.there) as connection:
        ticket = connection.execute(tickets.insert().returning(*tickets.c)).one()
        assert tuple(ticket) == (10, 510)


def stop_before(last_step: str, move: Move) -> None:
    @contextmanager
    def stop(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        if step == last_step:
            raise KeyboardInterrupt
        yield lambda more: None

    with pytest.raises(KeyboardInterrupt):
        copy_to_postgres(move.depot.package, move.here, move.there.database_target, track=stop)


def test_a_service_is_not_ready_on_half_of_its_data(move: Move) -> None:
    fill(move.here, 100)
    stop_before("comparing", move)
    assert move.ask("SELECT count(*) FROM alembic_version") == [(0,)]
    with pytest.raises(UnfinishedCopyError, match="not finished: run copy-to-postgres again"):
        upgrade(move.depot.package, move.there)

    move.copy()
    assert_equal(move)


DAMAGE = {
    "NUL": ("UPDATE kinds SET text = 'a' || char(0) || 'b' WHERE id = 3",
        "kinds.text: a text with a NUL in 1 row (id=3); take it out: UPDATE"),
    "no UTF-8": ("UPDATE kinds SET text = CAST(x'fffe' AS TEXT) WHERE id = 4",
        "kinds.text: a text that is not UTF-8 in 1 row (id=4)"),
    "half a surrogate pair": ("UPDATE kinds SET text = CAST(x'eda080' AS TEXT) WHERE id = 4",
        "kinds.text: a text that is not UTF-8 in 1 row (id=4)"),
    "an integer of 33 bits": ("UPDATE kinds SET whole = 4294967296 WHERE id < 3",
        "kinds.whole: an integer of more than 32 bits in 2 rows (id=1, id=2); .*BigInteger"),
    "a small integer": ("UPDATE kinds SET small = 32768 WHERE id = 1", "more than 16 bits"),
    "a small negative one": ("UPDATE kinds SET small = -32769 WHERE id = 1",
        "kinds.small: an integer of more than 16 bits"),
    "a text among integers": ("UPDATE kinds SET big = 'many' WHERE id = 1",
        "kinds.big: a text in a column of integers"),
    "a fraction among integers": ("UPDATE kinds SET big = 1.5 WHERE id = 1",
        "kinds.big: a fraction in a column of integers"),
    "a boolean of 2": ("UPDATE kinds SET flag = 2 WHERE id = 1", "kinds.flag: neither 0 nor 1"),
    "too many digits": ("UPDATE kinds SET money = 123456789.5 WHERE id = 1",
        "kinds.money: a number of more than 10 digits, 2 of them decimals"),
    "rounded to too many digits": ("UPDATE kinds SET money = 99999999.996 WHERE id = 1",
        "kinds.money: a number of more than 10 digits"),
    "infinity": ("UPDATE kinds SET exact = 9e999 WHERE id = 1", "kinds.exact: infinity"),
    "a real": ("UPDATE kinds SET real = 1e300 WHERE id = 1", "kinds.real: a number above"),
    "too long": ("UPDATE kinds SET short = hex(zeroblob(30)) WHERE id = 1",
        "kinds.short: a text of more than 40 characters in 1 row (id=1); shorten it: UPDATE"),
    "bytes in a text": ("UPDATE kinds SET text = x'41' WHERE id = 1",
        "kinds.text: bytes in a column of text"),
    "a text in bytes": ("UPDATE kinds SET data = 'text' WHERE id = 1",
        "kinds.data: a text in a column of bytes"),
    "no UUID": ("UPDATE kinds SET uuid = 'zz' WHERE id = 1", "kinds.uuid: no UUID"),
    "no digits": ("UPDATE kinds SET uuid = replace(hex(zeroblob(16)), '0', 'g') WHERE id = 1",
        "kinds.uuid: no UUID"),
    "blanks": ("UPDATE kinds SET uuid = '    ' || substr(hex(zeroblob(16)), 5) WHERE id = 1",
        "kinds.uuid: no UUID"),
    "a day of February": ("UPDATE kinds SET day = '2023-02-29' WHERE id = 1", "kinds.day: none of"),
    "seconds since 1970": ("UPDATE kinds SET moment = 1700000000 WHERE id = 1",
        "kinds.moment: an integer in a column of datetimes"),
    "a zone that would be lost": ("UPDATE kinds SET local = '2023-01-01 00:00:00+02:00' WHERE id=1",
        "kinds.local: a moment with a time zone in a column without one"),
    "no JSON": ("UPDATE kinds SET json = '{''a'': 1}' WHERE id = 1", "kinds.json: no JSON that"),
    "NaN in JSON": ("UPDATE kinds SET document = '[NaN]' WHERE id = 1", "document: no JSON that"),
    "NUL in JSON": (r"""UPDATE kinds SET document = '{"a": "\u0000"}' WHERE id = 1""",
        "kinds.document: a NUL in a text of a JSON document"),
    "half a character in JSON": (r"""UPDATE kinds SET json = '["\uD83E"]' WHERE id = 1""",
        "kinds.json: no JSON that PostgreSQL reads"),
    "no member": ("UPDATE kinds SET color = 'RED' WHERE id = 1",
        "kinds.color: no member of the enum"),
    "an array of texts": ("""UPDATE kinds SET numbers = '["1"]' WHERE id = 7""",
        "kinds.numbers: a list of other values than the array has in 1 row (id=7)"),
    "an array of numbers": ("UPDATE kinds SET words = '[1]' WHERE id = 7",
        "kinds.words: a list of other values than the array has in 1 row (id=7)"),
    "an empty list in a list": ("UPDATE kinds SET numbers = '[[]]' WHERE id = 7",
        "kinds.numbers: a list of other values than the array has in 1 row (id=7)"),
    "lists of two lengths": ("UPDATE kinds SET numbers = '[[1], [2, 3]]' WHERE id = 7",
        r"kinds.numbers: no integer\[\] \(22P02\) in 1 row (id=7)"),
    "an orphan": ("UPDATE trees SET parent_id = 99999 WHERE id = 2",
        "trees.parent_id: no row of trees that it refers to (fk_trees_parent_id_trees) "
        "in 1 row (id=2)"),
    "a table of nobody": ("CREATE TABLE scratch AS SELECT 1 AS x",
        "scratch: the migrations make no such table on PostgreSQL in 1 row .*--skip scratch"),
    "a column of nobody": ("ALTER TABLE log ADD COLUMN extra INT",
        "log.extra: PostgreSQL's table has no such column"),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "says"), DAMAGE.values(), ids=DAMAGE)
def test_what_postgres_refuses_is_found_before_a_row_is_written(
    move: Move, statement: str, says: str
) -> None:
    fill(move.here, 50)
    move.execute(statement)
    pattern = says.replace("(id", r"\(id").replace(")", r"\)").replace(r"\\)", r"\)")
    pattern = pattern.replace("(fk", r"\(fk")

    with pytest.raises(CopyError, match=pattern):
        move.copy()

    assert not any(rows for rows in read(move.there).values())
    assert move.ask("SELECT to_regclass('chassis_copy')") == [(None,)]


def test_damage_of_the_file_is_found(move: Move) -> None:
    fill(move.here, 20)
    with move.file.open("r+b") as file:
        # The number of free pages, of which there are none.
        file.seek(36)
        file.write(b"\0\0\0\7")
    with pytest.raises(CopyError, match=r"(?s)app.db: SQLite finds damage: .*; restore a"):
        move.copy()


def test_all_findings_are_listed_at_once(move: Move) -> None:
    fill(move.here, 50)
    statements = [statement for statement, _ in DAMAGE.values()]
    move.execute(*[one for one in statements if one.startswith("UPDATE kinds SET text")])
    move.execute("UPDATE kinds SET flag = 7", "UPDATE kinds SET big = 'x' WHERE id > 40")
    with pytest.raises(CopyError) as caught:
        move.copy()
    found = str(caught.value)
    assert "kinds.flag: neither 0 nor 1 in a column of booleans in 50 rows (id=1, " in found
    assert "id=20 and 30 more)" in found
    assert "kinds.big: a text in a column of integers in 10 rows" in found
    assert "a text with a NUL" in found
    assert "a text that is not UTF-8" in found


def test_constraints_that_sqlite_let_pass_are_found(move: Move) -> None:
    move.execute(
        "PRAGMA ignore_check_constraints=ON",
        "PRAGMA writable_schema=ON",
        "INSERT INTO log VALUES ('low', -1), ('lower', -2)",
        "UPDATE sqlite_master SET sql = replace(sql, 'text TEXT NOT NULL', 'text TEXT')",
    )
    key = "0123456789abcdef" * 2
    move.execute(
        "INSERT INTO kinds (id) VALUES (1)",
        f"INSERT INTO kinds (id, text, uuid) VALUES (2, '', '{key}')",
        f"INSERT INTO kinds (id, text, uuid) VALUES (3, '', '{key.upper()}')",
    )
    with pytest.raises(CopyError) as caught:
        move.copy()
    assert [line.partition(";")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  kinds.text: NULL in a column that must not be in 1 row (id=1)",
        "  kinds.uuid: the same values twice, where uq_kinds_uuid is unique, in 2 rows "
        "(id=2, id=3)",
        "  log: the CHECK ck_log_not_negative does not hold in 2 rows (rowid=1, rowid=2)",
    ]


def test_legacy_datetimes_are_read_as_the_service_reads_them(move: Move) -> None:
    fill(move.here, 5)
    legacy = ("2024-05-06T07:08:09", "2024-05-06 07:08", "2024-05-06", "2024-05-06T09:08:09+02:00")
    for number, moment in enumerate(legacy, 1):
        move.execute(f"UPDATE kinds SET moment = '{moment}' WHERE id = {number}")
    move.copy()
    assert_equal(move)
    assert (
        move.ask("SELECT moment::text FROM kinds WHERE id IN (1, 4) ORDER BY id")
        == [("2024-05-06 07:08:09+00",)] * 2
    )


def test_numerics_are_rounded_as_postgres_does(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    create_on_both(
        move,
        "op.create_table('sums', sa.Column('id', sa.Integer, primary_key=True), "
        "sa.Column('sum', sa.Numeric(10, 2).with_variant(sa.LargeBinary, 'sqlite')), "
        "sa.Column('fine', sa.Numeric(30, 20)))",
    )
    with closing(sqlite3.connect(move.file)) as database, database:
        rows = [(1, 1.005, 0.1), (2, 2.675, 7), (3, -0.001, -2.5), (4, -0.0, None)]
        database.executemany("INSERT INTO sums VALUES (?, ?, ?)", rows)
    monkeypatch.setattr(source, "_CHUNK_ROWS", 1)
    assert move.copy().notes == (
        "sums.sum: 3 values have more than 2 decimals, and are rounded, as PostgreSQL does",
    )
    assert move.ask("SELECT sum::text, fine::text FROM sums ORDER BY id") == [
        ("1.01", "0.10000000000000000000"),
        ("2.68", "7.00000000000000000000"),
        ("0.00", "-2.50000000000000000000"),
        ("0.00", None),
    ]


def test_progress_counts_each_row_once(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read a second time where one of them is refused."""
    monkeypatch.setattr(source, "_CHUNK_ROWS", 10)
    fill(move.here, 500)
    move.execute("UPDATE trees SET name = x'00' WHERE id = 35")
    steps: dict[str, list[int]] = {}

    @contextmanager
    def count(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        steps[step] = [rows]
        yield lambda more: steps[step].append(-more)

    with pytest.raises(CopyError, match=r"trees.name: bytes in a column of text in 1 row"):
        copy_to_postgres(move.depot.package, move.here, move.there.database_target, track=count)
    assert sum(steps["checking"]) == 0


def test_rows_are_copied_and_compared_once(move: Move) -> None:
    """A table is compared while the next one is copied, and counts where it is."""
    fill(move.here, 500)
    steps: dict[str, list[int]] = {}

    @contextmanager
    def count(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        steps[step] = [rows]
        yield lambda more: steps[step].append(-more)

    move.copy(track=count)
    assert [sum(steps[step]) for step in ("checking", "copying", "comparing")] == [0, 0, 0]
    assert steps["comparing"][0] <= steps["copying"][0]


def test_tables_are_analyzed(move: Move) -> None:
    fill(move.here, 50)
    move.copy()
    query = "SELECT DISTINCT tablename FROM pg_stats WHERE tablename IN ('kinds', 'trees')"
    assert move.ask(f"{query} ORDER BY 1") == [("kinds",), ("trees",)]


def test_a_writer_during_the_copy_is_noticed_and_the_next_run_begins_anew(move: Move) -> None:
    fill(move.here, 500)

    @contextmanager
    def write(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        if step == "copying":
            move.execute("UPDATE kinds SET text = 'changed' WHERE id = 7")
        yield lambda more: None

    with pytest.raises(CopyError, match=r"app.db was written to while it was copied: stop the"):
        copy_to_postgres(move.depot.package, move.here, move.there.database_target, track=write)

    move.copy()
    assert_equal(move)


def test_a_target_with_rows_is_refused_unless_told(move: Move) -> None:
    fill(move.here, 50)
    upgrade(move.depot.package, move.there)
    with open_connection(move.there) as connection:
        connection.execute(text("INSERT INTO counted (name) VALUES ('mine')"))
        connection.commit()

    with pytest.raises(CopyError, match=r"it has rows in counted: .*--overwrite"):
        move.copy()
    assert move.ask("SELECT name FROM counted") == [("mine",)]

    move.copy(overwrite=True)
    assert_equal(move)


def test_overwrite_empties_nothing_if_a_value_is_refused(move: Move) -> None:
    fill(move.here, 50)
    move.copy()
    move.execute("UPDATE kinds SET flag = 2 WHERE id = 1")
    before = read(move.there)
    with pytest.raises(CopyError, match="neither 0 nor 1"):
        move.copy(overwrite=True)
    assert read(move.there) == before


def test_rows_that_migrations_make_are_not_copied_twice(move: Move) -> None:
    insert = "op.execute(\"INSERT INTO counted (name) VALUES ('first')\")"
    move.depot.add("2", insert)
    upgrade(move.depot.package, move.here)
    move.copy(only_check=True)
    move.copy()
    assert_equal(move)


def test_rows_that_migrations_made_before_a_kill_are_not_taken_for_others(move: Move) -> None:
    move.depot.add("2", "op.execute(\"INSERT INTO counted (name) VALUES ('first')\")")
    upgrade(move.depot.package, move.here)
    stop_before("checking", move)
    assert move.ask("SELECT name FROM counted") == [("first",)]
    move.copy()
    assert_equal(move)


def test_the_schema_is_that_of_the_files_revision(move: Move) -> None:
    move.depot.add("2", "op.create_table('later', sa.Column('id', sa.Integer, primary_key=True))")
    fill(move.here, 20)
    move.copy()
    assert move.ask("SELECT to_regclass('later'), version_num FROM alembic_version") == [
        (None, "1")
    ]


def test_a_table_can_be_left_out(move: Move) -> None:
    fill(move.here, 20)
    move.execute("CREATE TABLE scratch AS SELECT 1 AS x")
    report = move.copy(left_out=("scratch",))
    assert report.notes == ("table scratch is left out, as asked for",)
    assert_equal(move)
    with pytest.raises(CopyError, match="--skip nowhere: the file has no such table"):
        move.copy(left_out=("nowhere",))


def test_triggers_do_not_run(move: Move) -> None:
    upgrade(move.depot.package, move.there)
    with open_connection(move.there) as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.text = upper(NEW.text); RETURN NEW; END'"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER shout BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION shout()"
        )
        connection.commit()
    fill(move.here, 20)
    move.copy()
    assert_equal(move)
    assert move.ask("SELECT tgenabled FROM pg_trigger WHERE NOT tgisinternal") == [("O",)]


def test_a_table_that_is_analyzed_already_is_no_failure(move: Move) -> None:
    """As autovacuum may be at work on it when the copy ends."""
    fill(move.here, 20)
    with administered(move.there) as admin:

        @contextmanager
        def lock(step: str, rows: int) -> Iterator[Callable[[int], None]]:
            if step == "copying":
                admin.execute(text("BEGIN"))
                admin.execute(text("LOCK TABLE log IN SHARE UPDATE EXCLUSIVE MODE"))
            yield lambda more: None

        copy_to_postgres(move.depot.package, move.here, move.there.database_target, track=lock)
        admin.execute(text("COMMIT"))
    assert_equal(move)


def test_two_copies_at_once_are_refused(move: Move) -> None:
    fill(move.here, 20)

    @contextmanager
    def copy_again(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        with pytest.raises(DatabaseUnavailableError, match="another copy"):
            move.copy()
        yield lambda more: None

    copy_to_postgres(move.depot.package, move.here, move.there.database_target, track=copy_again)
    assert_equal(move)


KILLED = """
import os, signal, sys, threading
from contextlib import contextmanager
from pydantic import SecretStr
from chassis.db import DatabaseSettings
from chassis.db.address.urls import parse_url
from chassis.db.copying import copy, source

package, here, there, last_step, chunks, seconds = sys.argv[1:]
source._CHUNK_ROWS, copy._ROWS_IN_TRANSACTION = 50, 10
left = int(chunks)

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

@contextmanager
def track(step, rows):
    def advance(more):
        global left
        left -= step == last_step
        if not left:
            threading.Timer(float(seconds), kill).start()
    yield advance

settings = DatabaseSettings(database_url=SecretStr(here))
copy.copy_to_postgres(package, settings, parse_url(there, "TARGET_URL"), track=track)
"""


def copy_until(
    move: Move, step: str, chunk: int, seconds: float
) -> "subprocess.CompletedProcess[str]":
    """Copy in a process that is killed so many seconds after a chunk of a step."""
    url = move.there.database_url
    assert url is not None
    arguments = [
        *(move.depot.package, f"sqlite:///{move.file}", url.get_secret_value()),
        *(step, str(chunk), str(seconds)),
    ]
    paths = os.pathsep.join([str(TESTS), str(move.file.parent)])
    done = run_code(KILLED, *arguments, PYTHONPATH=paths)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done


def test_another_process_copies_only_what_is_left(move: Move) -> None:
    fill(move.here, 500)
    assert copy_until(move, "copying", 30, 0).returncode == -signal.SIGKILL
    rows = {}

    @contextmanager
    def note(step: str, number: int) -> Iterator[Callable[[int], None]]:
        rows[step] = number
        yield lambda more: None

    move.copy(track=note)
    assert rows["copying"] <= rows["checking"] - 200
    assert_equal(move)


def test_a_copy_that_is_killed_at_any_moment_goes_on(move: Move) -> None:
    fill(move.here, 3000)
    chance = random.Random()
    killed = []
    moments = [
        ("checking", 90),
        ("copying", 30),
        ("copying", 30),
        ("copying", 30),
        ("comparing", 2),
    ]
    for step, chunks in moments:
        done = copy_until(move, step, chance.randrange(1, chunks), chance.random() / 20)
        if done.returncode == 0:
            break
        killed.append(step)
    if move.ask("SELECT to_regclass('chassis_copy')") != [(None,)]:
        move.copy()
    assert killed[:4] == ["checking", "copying", "copying", "copying"]
    assert_equal(move)


def test_an_owner_without_other_rights_may_copy(move: Move) -> None:
    fill(move.here, 50)
    with administered(move.there) as admin, role(admin, "secret") as (user, name):
        target = move.there.database_target
        mine = target.url.set(username=user, password="secret", database=name)
        to = replace(target, url=mine)
        copy_to_postgres(move.depot.package, move.here, to, track=track)
        assert read(move.here) == read(move.there.with_migration_target(to))


def test_a_lost_connection_is_no_loss(move: Move) -> None:
    fill(move.here, 500)

    @contextmanager
    def disconnect(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        if step == "copying":
            with administered(move.there) as admin:
                admin.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
        yield lambda more: None

    with pytest.raises(psycopg.OperationalError):
        copy_to_postgres(
            move.depot.package, move.here, move.there.database_target, track=disconnect
        )
    move.copy()
    assert_equal(move)


def test_what_is_only_in_the_wal_is_copied_and_the_file_stays_as_it_is(move: Move) -> None:
    """A service that was killed leaves its last rows there."""
    fill(move.here, 50)
    with closing(sqlite3.connect(move.file)) as database:
        database.execute("PRAGMA wal_autocheckpoint=0")
        with database:
            database.execute("UPDATE kinds SET text = 'in the WAL'")
        wal = move.file.with_name("app.db-wal")
        copies = [(file, file.read_bytes()) for file in (move.file, wal)]
        # Not as the last connection closes, which empties the WAL.
        move.file.with_name("app.db-shm").unlink()
        for file, data in copies:
            file.unlink()
            file.write_bytes(data)
    move.copy()
    assert move.ask("SELECT DISTINCT text FROM kinds") == [("in the WAL",)]
    assert [file.read_bytes() for file, _ in copies] == [data for _, data in copies]


def test_a_target_of_a_later_revision_is_one_message(move: Move) -> None:
    move.depot.add("2", "op.create_table('later', sa.Column('id', sa.Integer, primary_key=True))")
    upgrade(move.depot.package, move.there)
    with pytest.raises(CopyError, match=r"the target is at revision 2 and the file at 1: migrate"):
        move.copy()


def test_another_encoding_is_refused(move: Move) -> None:
    fill(move.here, 5)
    with administered(move.there) as admin:
        admin.exec_driver_sql(
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
        try:
            to = replace(
                move.there.database_target, url=move.there.database_target.url.set(database="latin")
            )
            with pytest.raises(CopyError, match=r"encoding is LATIN1.*ENCODING 'UTF8'"):
                copy_to_postgres(move.depot.package, move.here, to, track=track)
        finally:
            admin.exec_driver_sql("DROP DATABASE latin WITH (FORCE)")


def test_a_file_that_is_replaced_is_noticed(move: Move) -> None:
    fill(move.here, 5)

    @contextmanager
    def swap(step: str, rows: int) -> Iterator[Callable[[int], None]]:
        if step == "comparing":
            other = move.file.with_name("other.db")
            other.write_bytes(move.file.read_bytes())
            other.replace(move.file)
        yield lambda more: None

    with pytest.raises(CopyError, match="was written to while it was copied"):
        copy_to_postgres(move.depot.package, move.here, move.there.database_target, track=swap)


def test_rows_that_the_target_gets_meanwhile_are_noticed(move: Move) -> None:
    fill(move.here, 5)
    stop_before("comparing", move)
    with administered(move.there) as admin:
        admin.execute(text("UPDATE counted SET name = 'changed' WHERE id = 1"))

    with pytest.raises(
        CopyError, match=r"anew with --overwrite:\n  counted: 2 rows in the file, 2"
    ):
        move.copy()
    with pytest.raises(CopyError, match="counted: 2 rows in the file, 2 there"):
        move.copy()
    move.copy(overwrite=True)
    assert_equal(move)


def test_large_rows_are_not_gathered() -> None:
    pieces = iter([b"x" * 1_000_000 + b"\n"] * 10)
    next(gather_lines(pieces))
    assert len(list(pieces)) == 9


def test_large_rows_of_the_file_are_not_gathered(move: Move) -> None:
    fill(move.here, 50)
    move.execute("UPDATE kinds SET data = zeroblob(1500000)")
    with open_source(move.file) as source:
        [table] = [one for one in source.read_tables() if one.name == "kinds"]
        chunks = source.read_chunks(table, ["id", "data"], unbounded=[1])
        assert [len(rows) for rows in chunks] == [1] * 50


def test_a_file_that_was_migrated_since_the_copy_began_is_refused(move: Move) -> None:
    fill(move.here, 20)
    stop_before("comparing", move)
    move.depot.add("2", "pass")
    upgrade(move.depot.package, move.here)
    with pytest.raises(CopyError, match="at revision 2, and was at another when this copy began"):
        move.copy()


def test_a_table_that_is_left_out_of_the_second_run_has_no_rows_of_the_first(move: Move) -> None:
    fill(move.here, 20)
    stop_before("comparing", move)
    move.copy(left_out=("counted",))
    assert move.ask("SELECT count(*) FROM counted") == [(0,)]
    assert move.ask("SELECT count(*) FROM kinds") == [(20,)]


def test_what_differs_in_the_file_and_is_the_same_on_postgres_is_found(move: Move) -> None:
    """Texts of SQLite differ by each character; PostgreSQL compares what they mean."""
    create_on_both(
        move,
        "op.create_table('spelled', sa.Column('id', sa.Integer, primary_key=True), "
        "sa.Column('key', sa.Uuid, unique=True), sa.Column('name', sa.Text), "
        "sa.Column('at', sa.DateTime(timezone=True), unique=True)); "
        "op.execute('CREATE UNIQUE INDEX by_name ON spelled (lower(name)) WHERE id > 3')",
    )
    key = "abcdef" + "0" * 26
    move.execute(
        # SQLite's lower() leaves what is not ASCII as it is.
        "INSERT INTO spelled (id, name) VALUES (3, 'ÄRA'), (4, 'ÄRA'), (5, 'ära')",
        f"INSERT INTO spelled (id, key) VALUES (6, '{key}'), (7, '{key.upper()}')",
        "INSERT INTO spelled (id, at) VALUES (8, '2024-05-06 07:08:09.000000')",
        "INSERT INTO spelled (id, at) VALUES (9, '2024-05-06T09:08:09+02:00')",
    )
    with pytest.raises(CopyError) as caught:
        move.copy()
    twice = "the same values twice, where"
    assert [line.partition(";")[0] for line in str(caught.value).splitlines()[1:]] == [
        f"  spelled.at: {twice} uq_spelled_at is unique, in 2 rows (id=8, id=9)",
        f"  spelled.key: {twice} uq_spelled_key is unique, in 2 rows (id=6, id=7)",
        f"  spelled.lower(name): {twice} by_name is unique, in 2 rows (id=4, id=5)",
    ]


def test_a_reference_that_is_spelled_otherwise_finds_its_parent(move: Move) -> None:
    create_on_both(
        move,
        "op.create_table('keyed', sa.Column('key', sa.Uuid, primary_key=True), "
        "sa.Column('parent', sa.Uuid, sa.ForeignKey('keyed.key')))",
    )
    one, other = "abcdef" + "0" * 26, "1" * 32
    move.execute(f"INSERT INTO keyed VALUES ('{one}', NULL), ('{other}', '{one.upper()}')")
    move.copy()
    assert move.ask("SELECT count(*) FROM keyed JOIN keyed AS parent ON parent.key = keyed.parent")


def test_what_only_postgres_has_is_found_before_a_row_is_written(move: Move) -> None:
    create_on_both(
        move,
        "op.create_table('checked', sa.Column('id', sa.Integer, primary_key=True), "
        "sa.Column('text', sa.Text, index=True), sa.Column('whole', sa.Integer), "
        "sa.Column('double', sa.Integer, sa.Computed('whole * 2', persisted=True))); "
        "op.execute(\"ALTER TABLE checked ADD CHECK (text !~ 'x')\") "
        "if op.get_bind().dialect.name == 'postgresql' else None",
    )
    with closing(sqlite3.connect(move.file)) as database, database:
        long = "".join(random.Random(1).choices(ascii_uppercase + digits + "äöü/+-?", k=9000))
        rows = [(1, "x", 0), (2, long, 0), (3, "a" * 9000, 0), (4, None, 2**30)]
        database.executemany("INSERT INTO checked (id, text, whole) VALUES (?, ?, ?)", rows)
    with pytest.raises(CopyError) as caught:
        move.copy()
    found = [line.partition(";")[0] for line in str(caught.value).splitlines()[1:]]
    assert found == [
        "  checked: refused by PostgreSQL, NumericValueOutOfRange (22003), in 1 row (id=4)",
        "  checked: the CHECK checked_text_check does not hold in 1 row (id=1)",
        "  checked.text: too long for the index ix_checked_text in 1 row (id=2)",
    ]


@pytest.mark.parametrize(
    ("index", "column"),
    [
        ("(lower(text))", "lower(text)"),
        ("((text || 'x')) WHERE id > 0", "((text || 'x'::text))"),
        ("(id) INCLUDE (text)", "id"),
        ("(text text_pattern_ops)", "text"),
    ],
    ids=["function", "expression", "included", "operator class"],
)
def test_what_is_too_long_for_an_index_once_it_is_compressed_is_found(
    move: Move, index: str, column: str
) -> None:
    create_on_both(
        move,
        "op.create_table('sought', sa.Column('id', sa.Integer, primary_key=True), "
        "sa.Column('text', sa.Text)); op.get_bind().dialect.name == 'sqlite' or "
        f'op.execute("CREATE INDEX by_text ON sought {index}")',
    )
    chance = random.Random(1)
    rows = [(1, "b" * 100_000), (4, "ü" * 2600), (5, None)]
    rows += [(2, chance.randbytes(4000).hex()), (3, chance.randbytes(1300).hex())]
    with closing(sqlite3.connect(move.file)) as database, database:
        database.executemany("INSERT INTO sought VALUES (?, ?)", rows)
    with pytest.raises(CopyError) as caught:
        move.copy()
    found = [line.partition(";")[0] for line in str(caught.value).splitlines()[1:]]
    assert found == [f"  sought.{column}: too long for the index by_text in 1 row (id=2)"]

    move.execute("DELETE FROM sought WHERE id = 2")
    assert move.copy().rows == 4


def test_a_row_that_an_index_leaves_out_may_be_long(move: Move) -> None:
    create_on_both(
        move,
        "op.create_table('sought', sa.Column('id', sa.Integer), sa.Column('text', sa.Text)); "
        "op.execute('CREATE INDEX by_text ON sought (text) WHERE id > 1')",
    )
    move.execute("INSERT INTO sought VALUES (1, hex(randomblob(9000)))")
    assert move.copy().rows == 1


def test_a_short_text_of_a_char_is_filled(move: Move) -> None:
    fill(move.here, 5)
    move.execute("UPDATE kinds SET fixed = 'ü' WHERE id = 1")
    move.copy()
    assert move.ask("SELECT length(fixed || '|'), octet_length(fixed) FROM kinds WHERE id = 1") == [
        (2, 6)
    ]


def create_on_both(move: Move, statements: str) -> None:
    """Migrate the file to one more revision, which the copy makes on PostgreSQL."""
    move.depot.add("more", statements)
    upgrade(move.depot.package, move.here)


def test_comments_of_constraints_are_kept_and_stale_views_are_named(move: Move) -> None:
    upgrade(move.depot.package, move.there)
    with open_connection(move.there) as connection:
        connection.exec_driver_sql(
            "COMMENT ON CONSTRAINT fk_trees_parent_id_trees ON trees IS 'it''s 100%% a tree'"
        )
        connection.exec_driver_sql("CREATE MATERIALIZED VIEW hens_view AS SELECT * FROM hens")
        connection.commit()
    fill(move.here, 20)
    report = move.copy()
    assert report.notes == (
        "hens_view is as it was before the copy: run REFRESH MATERIALIZED VIEW hens_view",
    )
    assert move.ask(
        "SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint "
        "WHERE conname = 'fk_trees_parent_id_trees'"
    ) == [("it's 100% a tree",)]


def test_a_sequence_of_two_tables_goes_on_after_the_rows_of_both(move: Move) -> None:
    move.depot.configure(
        "numbers = sa.Sequence('numbers', metadata=metadata)",
        "for name in ('first', 'second'):",
        "    sa.Table(name, metadata, sa.Column('number', sa.Integer, numbers))",
        "sa.Table('log', metadata, sa.Column('of_a_later_revision', sa.Integer, numbers))",
    )
    create_on_both(
        move,
        "op.create_table('first', sa.Column('number', sa.Integer)); "
        "op.create_table('second', sa.Column('number', sa.Integer)); "
        "op.get_bind().dialect.name == 'sqlite' or op.execute('CREATE SEQUENCE numbers')",
    )
    move.execute("INSERT INTO first VALUES (70)", "INSERT INTO second VALUES (7)")
    move.copy()
    assert move.ask("SELECT nextval('numbers')") == [(71,)]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("ALTER DATABASE {0} OWNER TO CURRENT_USER", "GRANT CREATE ON SCHEMA public TO "),
        ("REVOKE TEMPORARY ON DATABASE {0} FROM {0}, PUBLIC", "GRANT TEMPORARY ON DATABASE "),
    ],
    ids=["schema", "temporary tables"],
)
def test_a_role_that_lacks_a_right_is_told_which(move: Move, statement: str, says: str) -> None:
    with administered(move.there) as admin, role(admin, "secret") as (user, name):
        url = move.there.database_target.url.set(database=name)
        here = replace(move.there.database_target, url=url)
        with administered(move.there.with_migration_target(here)) as inside:
            quoted = '"' + name.replace('"', '""').replace("%", "%%") + '"'
            inside.exec_driver_sql(statement.format(quoted))
            to = replace(here, url=url.set(username=user, password="secret"))
            with pytest.raises(CopyError, match=f"may not make tables: {says}"):
                copy_to_postgres(move.depot.package, move.here, to, track=track)
            made = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            assert inside.scalar(text(made)) == 0
