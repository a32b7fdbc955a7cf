"""Chains of revisions as public services have them, in shape: each finding is right.

They follow full-stack-fastapi-template, Polar, Dispatch, Redash and CKAN; names are others.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest
from chassis_depot import Depot, written

from chassis import ChassisSettings
from chassis.db.migrations.linting.findings import lint_migrations
from chassis.db.migrations.linting.squawk import find_squawk

pytestmark = pytest.mark.skipif(find_squawk() is None, reason="squawk-cli has no wheel here")

# Revisions, the oldest first: what each does, and the rules that it breaks if it alone is new.
Chain = list[tuple[str, list[str]]]

INTEGERS_TO_UUIDS: Chain = [
    (
        """
op.create_table("member", sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.String, nullable=False), sa.Column("title", sa.String(50)))
op.create_index("ix_member_email", "member", ["email"], unique=True)
op.create_table("thing", sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("owner_id", sa.Integer, sa.ForeignKey("member.id"), nullable=False))
""",
        [],
    ),
    (
        """
op.alter_column("member", "email", type_=sa.String(255), existing_type=sa.String())
op.alter_column("member", "title", type_=sa.String(255), existing_type=sa.String(50))
""",
        ["changing-column-type"],
    ),
    (
        """
op.execute('CREATE EXTENSION IF NOT EXISTS "uuid-ossp"')
op.add_column("member", sa.Column("new_id", sa.Uuid, default=sa.text("uuid_generate_v4()")))
op.add_column("thing", sa.Column("new_owner_id", sa.Uuid, nullable=True))
op.execute("UPDATE member SET new_id = uuid_generate_v4()")
op.execute("UPDATE thing SET new_owner_id = (SELECT new_id FROM member WHERE id = owner_id)")
op.alter_column("member", "new_id", nullable=False)
op.drop_constraint("thing_owner_id_fkey", "thing", type_="foreignkey")
op.drop_column("thing", "owner_id")
op.alter_column("thing", "new_owner_id", new_column_name="owner_id")
op.drop_column("member", "id")
op.alter_column("member", "new_id", new_column_name="id")
op.create_primary_key("member_pkey", "member", ["id"])
op.create_foreign_key("thing_owner_id_fkey", "thing", "member", ["owner_id"], ["id"])
""",
        [
            "data-in-schema-change",
            "data-in-schema-change",
            "adding-not-nullable-field",
            "ban-drop-column",
            "renaming-column",
            "ban-drop-column",
            "renaming-column",
            "adding-serial-primary-key-field",
            "adding-foreign-key-constraint",
        ],
    ),
]
BACKFILLS: Chain = [
    (
        """
op.create_table("case", sa.Column("id", sa.Uuid, primary_key=True))
op.create_table("group", sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("settings", sa.JSON))
""",
        [],
    ),
    (
        """
op.execute("SET LOCAL lock_timeout = '5s'")
op.add_column("case", sa.Column("group_id", sa.Uuid, nullable=True))
op.create_index(op.f("ix_case_group_id"), "case", ["group_id"], unique=False)
op.create_foreign_key(op.f("case_group_id_fkey"), "case", "group", ["group_id"], ["id"])
""",
        ["require-concurrent-index-creation", "adding-foreign-key-constraint"],
    ),
    (
        """
op.execute("SET LOCAL lock_timeout = '5s'")
op.execute('''UPDATE "case" AS c SET group_id = g.id FROM "group" AS g''')
op.alter_column("case", "group_id", existing_type=sa.Uuid(), nullable=False)
""",
        ["data-in-schema-change", "adding-not-nullable-field"],
    ),
    (
        """
with op.get_context().autocommit_block():
    op.create_index("ix_group_at", "group", ["id"], postgresql_concurrently=True)
""",
        [],
    ),
    (
        """
op.execute('''CREATE OR REPLACE FUNCTION touch() RETURNS trigger AS $$
BEGIN
    UPDATE "group" SET settings = NULL WHERE id = NEW.group_id;
    RETURN NEW;
END;
$$ LANGUAGE plpgsql''')
op.execute('CREATE TRIGGER touch AFTER INSERT ON "case" FOR EACH ROW EXECUTE FUNCTION touch()')
""",
        [],
    ),
]
REBUILT_RELATIONS: Chain = [
    (
        """
for name in ("incident", "project"):
    op.create_table(name, sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("visibility", sa.String), sa.Column("cost", sa.Integer))
op.create_table("tie", sa.Column("incident_id", sa.Integer), sa.Column("project_id", sa.Integer))
op.create_index("ix_tie", "tie", ["incident_id"])
""",
        [],
    ),
    (
        """
op.drop_index("ix_tie", table_name="tie")
op.drop_table("tie")
op.add_column("incident", sa.Column("project_id", sa.Integer, nullable=True))
op.create_foreign_key(None, "incident", "project", ["project_id"], ["id"], ondelete="CASCADE")
op.create_unique_constraint(None, "incident", ["project_id", "cost"])
""",
        ["ban-drop-table", "adding-foreign-key-constraint", "disallowed-unique-constraint"],
    ),
    (
        """
op.execute("update incident set visibility = 'Open' where visibility is null;")
op.alter_column("incident", "visibility", existing_type=sa.VARCHAR(), nullable=False)
op.alter_column("incident", "cost", new_column_name="total_cost")
op.alter_column("project", "cost", existing_type=sa.Integer(), type_=sa.Numeric())
""",
        [
            "data-in-schema-change",
            "adding-not-nullable-field",
            "renaming-column",
            "changing-column-type",
        ],
    ),
    (
        """
for row in op.get_bind().execute(sa.text("SELECT id FROM project")).fetchall():
    op.execute(f"UPDATE project SET cost = 0 WHERE id = {row.id}")
""",
        [],
    ),
]
JSON_IN_TEXT: Chain = [
    (
        """
op.create_table("query", sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schedule", sa.Text), sa.Column("options", sa.Text), sa.Column("picture", sa.Text))
""",
        [],
    ),
    (
        """
op.add_column("query", sa.Column("is_draft", sa.Boolean, nullable=True))
op.create_index(op.f("ix_query_is_draft"), "query", ["is_draft"], unique=False)
op.execute("UPDATE query SET is_draft = (schedule = 'New Query')")
""",
        ["require-concurrent-index-creation", "data-in-schema-change"],
    ),
    (
        """
op.alter_column("query", "options", existing_type=sa.Text(), type_=JSONB(),
    postgresql_using="options::jsonb", server_default=sa.text("'{}'::jsonb"))
op.add_column("query", sa.Column("org_id", sa.Integer, nullable=False))
op.drop_column("query", "picture")
""",
        ["changing-column-type", "adding-required-field", "ban-drop-column"],
    ),
]
TABLES_THAT_GO: Chain = [
    (
        """
op.execute('''
    -- a dump of an older tool
    CREATE TABLE IF NOT EXISTS package (id TEXT NOT NULL PRIMARY KEY, state TEXT, extras TEXT);
    CREATE TABLE package_extra (package_id TEXT REFERENCES package (id), state TEXT);
    CREATE INDEX extra_state ON package_extra (state);
''')
""",
        [],
    ),
    ("op.execute('DELETE FROM package_extra WHERE state = \\'deleted\\'')", []),
    ("pass", []),
    (
        """
op.execute("update package set extras = (select max(state) from package_extra);")
op.drop_table("package_extra")
""",
        ["data-in-schema-change", "ban-drop-table"],
    ),
    (
        "op.create_index('one', 'package', ['state'], unique=True, "
        "postgresql_where=sa.text('state = 1'))",
        ["require-concurrent-index-creation"],
    ),
]
CHAINS = {
    "integers to UUIDs": INTEGERS_TO_UUIDS,
    "backfills": BACKFILLS,
    "rebuilt relations": REBUILT_RELATIONS,
    "JSON in text": JSON_IN_TEXT,
    "tables that go": TABLES_THAT_GO,
}


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        yield depot


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_has_the_findings_that_are_right(
    depot: Depot, settings: ChassisSettings, name: str
) -> None:
    found: list[list[str]] = []
    for number, (text, _) in enumerate(CHAINS[name]):
        script = f"from sqlalchemy.dialects.postgresql import JSONB\n{text.strip()}"
        depot.add(str(number), indent(script, "    ").strip(), "op.execute('SELECT 1')")
        after = str(number - 1) if number else "base"
        findings = lint_migrations(depot.package, settings, after)
        found.append([re.split("[:,]", one.message)[0] for one in findings])

    assert found == [rules for _, rules in CHAINS[name]]


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_that_is_new_as_a_whole_is_linted_too(
    depot: Depot, settings: ChassisSettings, name: str
) -> None:
    for number, (text, _) in enumerate(CHAINS[name]):
        script = f"from sqlalchemy.dialects.postgresql import JSONB\n{text.strip()}"
        depot.add(str(number), indent(script, "    ").strip(), "op.execute('SELECT 1')")

    assert lint_migrations(depot.package, settings, "base") == []
