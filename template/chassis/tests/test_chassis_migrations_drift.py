"""What the models say and the migrations do not make: a line for each difference."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from chassis_depot import Depot, written
from chassis_stock import only_on

from chassis import ChassisSettings
from chassis.db.migrations.authoring.check import check_migrations

# For each table its column in the models, the one that the migrations make, and the line.
COLUMNS = [
    (
        "sa.String(40)",
        "sa.String(20)",
        "column x: type is .*40.* in the models, .*20|modify_type t0 x",
    ),
    ("sa.Integer", "sa.String(9)", "column x: type is integer in the models"),
    ("sa.Integer, nullable=False", "sa.Integer", "column x: nullability is not null in the models"),
    ("sa.Integer, server_default='1'", "sa.Integer, server_default='2'", "default is 1 .*, 2 by"),
    ("sa.String, server_default='a'", "sa.String", "column x: default is 'a'.*, none by"),
    ("sa.Boolean", "sa.Boolean, server_default=sa.true()", "default is none in the models"),
    ("sa.Integer, sa.Computed('id * 2')", "sa.Integer, sa.Computed('id * 3')", "computed is .*2"),
    ("sa.Integer", "sa.Integer, sa.Computed('id * 3')", "column x: computed is none in the models"),
    ("sa.String(collation={collation!r})", "sa.String", "column x: collation is"),
    (
        "sa.Integer, {check}('x > 1', name='c')",
        "sa.Integer, {check}('x > 2', name='c')",
        "check ck",
    ),
    ("sa.Integer, {check}('x > 1', name='c')", "sa.Integer", "check ck_.* only in the models"),
    ("sa.Integer", "sa.Integer, {check}('x > 1', name='c')", "check ck_.* only in the migrations"),
    ("sa.Enum('a', 'b', {listed})", "sa.Enum('a', {listed})", "check ck_t12_k2: definition is"),
    ("sa.Integer, unique=True", "sa.Integer", "unique constraint uq_.* only in the models"),
    ("sa.Integer, {key}, ondelete='CASCADE')", "sa.Integer, {key})", "foreign key .*cascade"),
    ("sa.Integer, {key}, deferrable=True)", "sa.Integer, {key})", "foreign key .*deferrable"),
]
INDEXES = [
    ("'x', {where}=sa.text('x > 1')", "'x', {where}=sa.text('x > 2')", "definition is"),
    ("'x'", "'x', {where}=sa.text('x > 2')", "definition is"),
    ("sa.text('abs(x)')", "sa.text('abs(id)')", "definition is"),
    ("'x', unique=True", "'x'", "definition is .*unique"),
    ("sa.text('x DESC')", "'x'", "definition is .*desc"),
    ("'x', 'id'", "'id', 'x'", "definition is"),
]
EQUAL_COLUMNS = [
    ("sa.DateTime, server_default=sa.func.now()", "sa.DateTime, server_default={now}"),
    ("sa.Integer, server_default='0'", "sa.Integer, server_default=sa.text('0')"),
    ("sa.Numeric(9, 2), server_default='0.5'", "sa.Numeric(9, 2), server_default=sa.text('0.5')"),
    ("sa.Integer, server_default='-1'", "sa.Integer, server_default=sa.text('(-1)')"),
    ("sa.Boolean, server_default=sa.true()", "sa.Boolean, server_default=sa.text('true')"),
    ("sa.Boolean, server_default=sa.text('0')", "sa.Boolean, server_default=sa.false()"),
    ("sa.Boolean, server_default='true'", "sa.Boolean, server_default=sa.true()"),
    ("sa.DateTime, server_default=sa.text('now()')", "sa.DateTime, server_default={now}"),
    ("sa.Integer, {check}('x   > 1', name='c')", "sa.Integer, {check}('(x>1)', name='c')"),
    ("sa.Integer, unique=True", "sa.Integer), sa.UniqueConstraint('x'"),
    ("sa.Enum('a', 'b', name='k1')", "sa.Enum('a', 'b', name='k1')"),
    ("sa.Integer, sa.Identity()", "sa.Integer, sa.Identity()"),
    ("sa.Integer, sa.Computed('id * 2')", "sa.Integer, sa.Computed('(id*2)')"),
    ("sa.Integer, {key}, deferrable=True)", "sa.Integer, {key}, deferrable=True)"),
]
WORDS = {
    "check": "sa.CheckConstraint",
    "key": "sa.ForeignKey('t0.id'",
    "listed": "name='k2', native_enum=False, create_constraint=True",
    "now": "sa.text('CURRENT_TIMESTAMP')",
}
ENGINE_WORDS = {
    "sqlite": {"where": "sqlite_where", "collation": "NOCASE"},
    "postgres": {"where": "postgresql_where", "collation": "C"},
}
NAMED = """from chassis.db.base import NAMING_CONVENTION
metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)"""
KEY = "sa.Column('id', sa.Integer, primary_key=True)"


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        yield depot


def check(depot: Depot, settings: ChassisSettings) -> list[str]:
    """Check on the engine under test and return the lines, without what they begin with."""
    is_sqlite = settings.database_target.backend == "sqlite"
    try:
        check_migrations(depot.package, settings, engine="sqlite" if is_sqlite else "postgres")
    except CommandError as error:
        return [line.partition(": ")[2] for line in str(error).splitlines()]
    return []


def spell(text: str, settings: ChassisSettings) -> str:
    return text.format(**WORDS, **ENGINE_WORDS[settings.database_target.backend])


def write(depot: Depot, tables: list[tuple[str, str]]) -> None:
    """Write what follows the primary key in each table: in the models, and in a revision."""
    models, made = zip(*tables, strict=True)
    depot.configure(
        NAMED, *(f"sa.Table('t{n}', metadata, {KEY}, {x})" for n, x in enumerate(models))
    )
    create = [f"op.create_table('t{n}', {KEY}, {x})" for n, x in enumerate(made)]
    drop = [f"op.drop_table('t{n}')" for n in reversed(range(len(made)))]
    drop.append("sa.Enum(name='k1').drop(op.get_bind(), checkfirst=True)")
    depot.add("1", "\n    ".join(create), "\n    ".join(drop))


def test_each_difference_has_its_line(depot: Depot, settings: ChassisSettings) -> None:
    columns = [(f"sa.Column('x', {a})", f"sa.Column('x', {b})", says) for a, b, says in COLUMNS]
    indexes = [
        (*(f"sa.Column('x', sa.Integer), sa.Index('ix{n}', {one})" for one in pair), says)
        for n, (*pair, says) in enumerate(INDEXES)
    ]
    tables = [*columns, *indexes]
    write(depot, [(spell(a, settings), spell(b, settings)) for a, b, _ in tables])

    lines = check(depot, settings)

    for number, (_, _, says) in enumerate(tables):
        found = [line for line in lines if re.match(rf"(table|.*modify_type) t{number}\b", line)]
        assert len(found) == 1, (number, says, lines)
        assert re.search(says, found[0], re.IGNORECASE), found
    assert len(lines) == len(tables)


@pytest.mark.parametrize("type_", ["sa.Enum({}, name='k1')", "sa.ARRAY(sa.Enum({}, name='k1'))"])
def test_a_member_of_an_enum_is_seen(depot: Depot, settings: ChassisSettings, type_: str) -> None:
    if "ARRAY" in type_:
        only_on("postgres", settings)
    pair = [f"sa.Column('x', {type_.format(members)})" for members in ("'a', 'b'", "'a'")]
    write(depot, [(pair[0], pair[1])])

    (line,) = check(depot, settings)

    assert re.match("table t0, column x: members is 'a', 'b' in the models|.*modify_enum k1", line)


def test_the_same_in_other_words_is_no_difference(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        depot,
        [
            (f"sa.Column('x', {spell(a, settings)})", f"sa.Column('x', {spell(b, settings)})")
            for a, b in EQUAL_COLUMNS
        ],
    )

    with caplog.at_level(logging.WARNING, "chassis"):
        assert check(depot, settings) == []

    assert caplog.messages == []


LEAVE_OUT = """def include_object(item, name, kind, reflected, compare_to):
    return not (name or '').startswith('theirs')

def include_name(name, kind, parents):
    return name != 'ix_old'"""
OTHERS = "sa.Column('theirs', sa.Integer), sa.Index('theirs_ix', 'id')"


@pytest.mark.parametrize(("options", "count"), [("", 4), ("include_object=include_object", 1)])
def test_what_the_service_leaves_out_is_not_compared(
    depot: Depot, settings: ChassisSettings, options: str, count: int
) -> None:
    old = "sa.Index('ix_old', 'id')"
    model = f"sa.Table('t', metadata, {KEY}, sa.Index('theirs_other', 'id'))"
    depot.configure(NAMED, LEAVE_OUT, model, options=options)
    depot.add("1", f"op.create_table('t', {KEY}, {OTHERS}, {old})", "op.drop_table('t')")
    assert len(check(depot, settings)) == count

    depot.configure(NAMED, LEAVE_OUT, model, options=f"include_name=include_name, {options}")
    assert len(check(depot, settings)) == count - 1


def test_what_only_migrations_make_is_no_difference(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.configure(NAMED, f"sa.Table('t', metadata, {KEY})")
    trigger = (
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM t; END"
        if settings.database_target.backend == "sqlite"
        else "CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    made = [f"op.create_table('t', {KEY})", "op.execute('CREATE VIEW v AS SELECT id FROM t')"]
    made += [f"op.execute({trigger!r})", "op.execute('INSERT INTO t VALUES (1)')"]
    depot.add("1", "; ".join(made), "op.execute('DROP VIEW v'); op.drop_table('t')")

    assert check(depot, settings) == []


def test_what_models_need_and_only_migrations_make_is_there(
    depot: Depot, settings: ChassisSettings
) -> None:
    only_on("postgres", settings)
    column = "sa.Column('x', sa.Integer, sa.CheckConstraint('good(x)', name='good'))"
    depot.configure(NAMED, f"sa.Table('t', metadata, {KEY}, {column})")
    function = "CREATE FUNCTION good(integer) RETURNS boolean LANGUAGE sql RETURN true"
    made = f"op.execute('{function}'); op.create_table('t', {KEY}, {column})"
    depot.add("1", made, "op.drop_table('t'); op.execute('DROP FUNCTION good(integer)')")

    assert check(depot, settings) == []


def test_a_constraint_by_another_name_is_a_warning(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    depot.configure(NAMED, f"sa.Table('t', metadata, {KEY})")
    column, key = "sa.Column('id', sa.Integer)", "sa.PrimaryKeyConstraint('id', name='k')"
    depot.add("1", f"op.create_table('t', {column}, {key})", "op.drop_table('t')")

    with caplog.at_level(logging.WARNING, "chassis"):
        assert check(depot, settings) == []

    (line,) = caplog.messages
    assert re.search("table t, primary key k .*has another name in the models, pk_t", line)


def test_a_table_of_the_models_that_no_revision_makes_is_one_line(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.configure(NAMED, f"sa.Table('t', metadata, {KEY}, sa.Index('ix', 'id'))")
    depot.add("1", "op.create_table('old', sa.Column('id', sa.Integer))", "op.drop_table('old')")

    lines = check(depot, settings)

    assert lines[0] == "table t is only in the models: op.create_table"
    assert len(lines) == 2
    assert "remove_table old" in lines[1]
