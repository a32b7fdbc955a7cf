"""What autogenerate writes: one text for both backends, with every name that it needs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.util import CommandError
from chassis_depot import Depot, written
from sqlalchemy import DefaultClause
from sqlalchemy import text as sql

from chassis import ChassisSettings
from chassis.db import DatabaseSettings
from chassis.db.migrations.defaults import render_default
from chassis.db.migrations.enums import replay_enums
from chassis.db.migrations.rendering import mend_text
from chassis.db.migrations.upgrade import alembic_config, downgrade, upgrade

PACKAGE_TYPE = """
import decimal
import sqlalchemy.types

class Lower(sa.types.TypeDecorator):
    impl = sa.String(64)
    cache_ok = True

class Shape(sa.types.UserDefinedType):
    cache_ok = True
    def get_col_spec(self):
        return "TEXT"

Shape.__module__ = {module!r}
sa.Table("notes", metadata, sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", Lower()), sa.Column("shape", Shape()))
"""
KINDS = """
sa.Table("notes", metadata, sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Enum({labels}, name="kind"), server_default="a"))
"""


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        yield depot


def test_a_type_of_the_service_is_written_as_the_plain_one(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.configure(PACKAGE_TYPE.format(module="decimal"))

    script = depot.generate(settings)

    assert "sa.Column('email', sa.String(length=64), nullable=True)" in script
    assert "import decimal\n" in script
    assert "decimal.Shape()" in script


def test_a_name_that_nothing_defines_is_an_error_and_no_file(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.configure(PACKAGE_TYPE.format(module="nowhere"))

    with pytest.raises(CommandError, match=r"would name nowhere\.Shape, which nothing defines"):
        depot.generate(settings)

    assert list(depot.versions.glob("*.py")) == []


@pytest.mark.parametrize(
    ("text", "mended", "imports"),
    [
        ("x = ARRAY(Integer())", "x = sa.ARRAY(sa.Integer())", set()),
        ("f(JSONB(Text()))", "f(postgresql.JSONB(sa.Text()))", {"postgresql"}),
        (
            "f('ä', postgresql.CIDR(), Text())",
            "f('ä', postgresql.CIDR(), sa.Text())",
            {"postgresql"},
        ),
        ("f(ä=Text())", "f(ä=sa.Text())", set()),
        ("with op.x() as b:\n    b.y(sa.Text())", "with op.x() as b:\n    b.y(sa.Text())", set()),
        ("sa.Enum('a', name='k')", "sa.Enum('a', name='k', create_type=False)", set()),
        ("sa.Enum('a', native_enum=False, name='k')",) * 2 + (set(),),
    ],
)
def test_names_of_sqlalchemy_are_qualified(text: str, mended: str, imports: set[str]) -> None:
    found: set[str] = set()

    assert mend_text(text.replace("f(", "op.f("), found) == mended.replace("f(", "op.f(")

    assert found == {f"from sqlalchemy.dialects import {name}" for name in imports}
    ast.parse(mended)


@pytest.mark.parametrize(
    ("default", "written", "boolean"),
    [
        ("now()", "sa.text('CURRENT_TIMESTAMP')", False),
        ("(CURRENT_TIMESTAMP)", "sa.text('CURRENT_TIMESTAMP')", False),
        ("'a b'::character varying(9)", """sa.text("'a b'")""", False),
        ("'2026-01-31'::date", """sa.text("'2026-01-31'")""", False),
        ("'{}'::jsonb", """sa.text("'{}'")""", False),
        ("lower('A') || ')'", """sa.text("(lower('A') || ')')")""", False),
        ("(a) + (b)", "sa.text('((a) + (b))')", False),
        ("-1.5", "sa.text('-1.5')", False),
        ("1", "sa.true()", True),
        ("'false'", "sa.false()", True),
        ("false", "sa.text('false')", False),
    ],
)
def test_a_default_is_written_as_both_engines_take_it(
    default: str, written: str, boolean: bool
) -> None:
    assert render_default(DefaultClause(sql(default)), is_boolean=boolean) == written


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("'a', 'b'", "'a', 'b', 'c'"),
        ("'a', 'b'", "'x', 'y', 'a', 'it''s', 'b'"),
        ("'a', 'b', 'c'", "'c', 'a'"),
    ],
    ids=["added at the end", "added before and between", "removed and moved"],
)
def test_members_of_an_enum_change_on_both_engines(
    depot: Depot, settings: ChassisSettings, tmp_path: Path, before: str, after: str
) -> None:
    depot.configure(KINDS.format(labels=before))
    depot.generate(settings, "first")
    upgrade(depot.package, settings)
    depot.configure(KINDS.format(labels=after))
    depot.generate(settings, "second")
    elsewhere = DatabaseSettings(database_sqlite_path=tmp_path / "other.db")

    for each in (settings, elsewhere):
        for revision in ("base", "-1"):
            upgrade(depot.package, each)
            command.check(alembic_config(depot.package, each))
            downgrade(depot.package, each, revision)
        upgrade(depot.package, each)


def test_the_members_of_an_enum_are_read_from_the_revisions(tmp_path: Path) -> None:
    script = tmp_path / "1.py"
    script.write_text(
        """
def upgrade():
    op.create_table("t", sa.Column("a", sa.Enum("x", "y", name="kind", schema="s")))
    op.create_table("u", sa.Column("a", sa.Enum("p", name="other", native_enum=False)))
    op.execute("ALTER TYPE s.kind ADD VALUE 'it''s' BEFORE 'y'")
    op.execute("CREATE TYPE \\\\"Odd Name\\\\" AS ENUM ('1', '2')")
    op.execute("CREATE TYPE gone AS ENUM ('1')")
    op.execute("DROP TYPE gone")


def downgrade():
    op.execute("DROP TYPE s.kind")
""".replace("\\\\", "\\")
    )

    assert replay_enums([script]) == {"s.kind": ("x", "it's", "y"), '"Odd Name"': ("1", "2")}
