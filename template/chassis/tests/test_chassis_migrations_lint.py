"""Dangerous migrations are found with the safe way, and the safe ways pass."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent, indent

import pytest
from alembic.util import CommandError
from chassis_depot import Depot, written
from chassis_sample.__main__ import run
from click.testing import CliRunner

from chassis import ChassisSettings
from chassis.db import DatabaseSettings
from chassis.db.migrations.linting import findings
from chassis.db.migrations.linting.dangers import ALL_RULES, SQUAWK_RULES
from chassis.db.migrations.linting.findings import lint_migrations
from chassis.db.migrations.linting.squawk import find_squawk
from chassis.db.migrations.upgrade import upgrade

needs_squawk = pytest.mark.skipif(find_squawk() is None, reason="squawk-cli has no wheel here")

TABLES = """
op.create_table('user', sa.Column('id', sa.Integer, primary_key=True))
op.create_table('orders',
    sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('user_id', sa.Integer),
    sa.Column('number', sa.Integer, nullable=False),
    sa.Column('code', sa.String(20)),
    sa.Column('note', sa.Text),
    sa.Column('paid', sa.Boolean),
)
op.create_index('ix_orders_code', 'orders', ['code'])
if op.get_context().dialect.name == 'postgresql':
    op.execute("CREATE TYPE mood AS ENUM ('sad')")
"""
ON_POSTGRES = "if op.get_context().dialect.name == 'postgresql':\n    "
BLOCK = "with op.get_context().autocommit_block():\n    "
POSTGRES_BLOCK = f"{ON_POSTGRES}with op.get_context().autocommit_block():\n        "
BATCH = "with op.batch_alter_table('orders') as batch:\n    batch."


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    with written(tmp_path) as depot:
        add(depot, "1", TABLES, down="drop_table('orders')")
        yield depot


def add(depot: Depot, name: str, upgrade: str, *, down: str = "execute('SELECT 1')") -> None:
    """Add a revision of several lines."""
    depot.add(name, indent(upgrade.strip(), "    ").strip(), f"op.{down}")


def found(depot: Depot, settings: ChassisSettings, after: str | None = "1") -> list[str]:
    """Lint and return the rule and line of each finding."""
    findings = lint_migrations(depot.package, settings, after)
    return [f"{re.split('[:,]', one.message)[0]}, line {one.line}" for one in findings]


DANGEROUS = {
    "require-concurrent-index-creation": "op.create_index('ix', 'orders', ['user_id'])",
    "require-concurrent-index-deletion": "op.drop_index('ix_orders_code', 'orders')",
    "require-concurrent-reindex": "op.execute('REINDEX TABLE orders')",
    "require-concurrent-partition-detach": "op.execute('ALTER TABLE orders DETACH PARTITION old')",
    "ban-concurrent-index-creation-in-transaction": (
        "op.create_index('ix', 'orders', ['user_id'], postgresql_concurrently=True)"
    ),
    "adding-field-with-default": (
        "op.add_column('orders',\n"
        "    sa.Column('key', sa.Uuid, server_default=sa.func.gen_random_uuid()))"
    ),
    "adding-required-field": "op.add_column('orders', sa.Column('n', sa.Integer, nullable=False))",
    "adding-not-nullable-field": f"{BATCH}alter_column('code', nullable=False)",
    "adding-foreign-key-constraint": (
        f"{BATCH}create_foreign_key('fk', 'user', ['user_id'], ['id'])"
    ),
    "constraint-missing-not-valid": f"{BATCH}create_check_constraint('ck', 'user_id > 0')",
    "disallowed-unique-constraint": f"{BATCH}create_unique_constraint('uq', ['code'])",
    "adding-serial-primary-key-field": f"{BATCH}create_primary_key('pk', ['code'])",
    "changing-column-type": f"{BATCH}alter_column('user_id', type_=sa.BigInteger)",
    "renaming-table": "op.rename_table('orders', 'purchases')",
    "renaming-column": f"{BATCH}alter_column('note', new_column_name='remark')",
    "ban-drop-table": "op.drop_table('orders')",
    "ban-drop-column": "op.drop_column('orders', 'note')",
    "ban-set-schema": "op.execute('ALTER TABLE orders SET SCHEMA old')",
    "ban-drop-schema": "op.execute('DROP SCHEMA old')",
    "ban-drop-database": "op.execute('DROP DATABASE old')",
    "ban-truncate-cascade": "op.execute('TRUNCATE orders CASCADE')",
    "transaction-nesting": "op.execute('BEGIN WORK')",
    "enum-value-in-transaction": (
        "op.execute(\"ALTER TYPE mood ADD VALUE 'happy'\")\n"
        "op.execute(\"CREATE TABLE day (mood mood DEFAULT 'happy')\")"
    ),
    "data-in-schema-change": (
        "op.add_column('orders', sa.Column('total', sa.Integer))\n"
        "op.execute('UPDATE orders SET total = 0')"
    ),
    "lock-timeout-off": "op.execute('SET lock_timeout = 0')",
    "irreversible-downgrade": "op.add_column('orders', sa.Column('total', sa.Integer))",
}
NEW_TABLE = """
op.create_table('line',
    sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('orders_id', sa.Integer, sa.ForeignKey('orders.id'), nullable=False),
    sa.Column('name', sa.String(20), unique=True),
    sa.CheckConstraint('orders_id > 0', name='ck_line'),
)
op.create_index('ix_line_orders_id', 'line', ['orders_id'])
op.execute("INSERT INTO line (orders_id, name) SELECT id, code FROM orders")
"""
CHECKED = f"""
{BATCH}create_check_constraint('ck', 'code IS NOT NULL', postgresql_not_valid=True)
{POSTGRES_BLOCK}op.execute('ALTER TABLE orders VALIDATE CONSTRAINT ck')
"""
INDEXED = f"""
{BLOCK}op.create_index('ix_new', 'orders', ['number'], unique=True, postgresql_concurrently=True)
"""
SAFE = {
    "a new table with all that belongs to it": NEW_TABLE,
    "a column without a value": "op.add_column('orders', sa.Column('n', sa.Integer))",
    "a default that is the same for all rows": (
        "op.add_column('orders', sa.Column('n', sa.Integer, nullable=False, server_default='0'))"
    ),
    "the time of the migration as a default": (
        f"{BATCH}add_column(sa.Column('at', sa.DateTime, server_default=sa.func.now()))"
    ),
    "a default of new rows": f"{BATCH}alter_column('note', server_default='none')",
    "NULL that is allowed": f"{BATCH}alter_column('note', nullable=True)",
    "a text with more room": f"{BATCH}alter_column('code', type_=sa.String(50))",
    "a text without a limit": f"{BATCH}alter_column('code', type_=sa.Text)",
    "an index built beside traffic": INDEXED,
    "an index dropped beside traffic": (
        f"{BLOCK}op.drop_index('ix_orders_code', 'orders', postgresql_concurrently=True)"
    ),
    "a foreign key for new rows": (
        f"{BATCH}create_foreign_key('fk', 'user', ['user_id'], ['id'], postgresql_not_valid=True)"
    ),
    "a check that is validated later": CHECKED,
    "NOT NULL after its check": f"{CHECKED}\n{BATCH}alter_column('code', nullable=False)",
    "a unique constraint of an index": (
        f"{INDEXED}\n{ON_POSTGRES}op.execute("
        "'ALTER TABLE orders ADD CONSTRAINT uq UNIQUE USING INDEX ix_new')"
    ),
    "a key of an index": (
        f"{INDEXED}\n{ON_POSTGRES}op.execute('ALTER TABLE orders DROP CONSTRAINT orders_pkey')\n"
        "    op.execute('ALTER TABLE orders ADD CONSTRAINT pk PRIMARY KEY USING INDEX ix_new')"
    ),
    "a member of an enum, used after its own transaction": (
        f"{POSTGRES_BLOCK}op.execute(\"ALTER TYPE mood ADD VALUE 'happy'\")\n"
        f"{ON_POSTGRES}op.execute(\"CREATE TABLE day (mood mood DEFAULT 'happy')\")"
    ),
    "a member of an enum, used where nothing is a transaction": (
        f"{POSTGRES_BLOCK}op.execute(\"ALTER TYPE mood ADD VALUE 'happy'\")\n"
        "        op.execute(\"CREATE TABLE day (mood mood DEFAULT 'happy')\")"
    ),
    "a member of an enum that is not used yet": (
        f"{ON_POSTGRES}op.execute(\"ALTER TYPE mood ADD VALUE 'happy'\")\n"
        "op.create_table('day', sa.Column('id', sa.Integer, primary_key=True))"
    ),
    "a member of an enum that is new itself": (
        f"{ON_POSTGRES}op.execute(\"CREATE TYPE size AS ENUM ('s')\")\n"
        "    op.execute(\"ALTER TYPE size ADD VALUE 'm'\")\n"
        "    op.execute(\"CREATE TABLE shirt (size size DEFAULT 'm')\")"
    ),
    "rows of a new table, beside a column of another": (
        f"{NEW_TABLE}op.add_column('orders', sa.Column('n', sa.Integer))\n"
        "op.execute(\"UPDATE line SET name = 'a'\")"
    ),
    "a function that changes rows, beside a column": (
        "op.add_column('orders', sa.Column('n', sa.Integer))\n"
        f"{ON_POSTGRES}op.execute('CREATE FUNCTION f() RETURNS void AS $$ BEGIN NULL; '\n"
        "        'UPDATE orders SET n = 1; END; $$ LANGUAGE plpgsql')"
    ),
    "rows changed outside of a transaction": (
        "op.add_column('orders', sa.Column('total', sa.Integer))\n"
        f"{BLOCK}op.execute('UPDATE orders SET total = 0 WHERE id BETWEEN 1 AND 5000')"
    ),
    "rows changed alone": "op.execute('-- all\\nUPDATE orders SET paid = true')",
    "rows of a new table": (
        "op.bulk_insert(op.create_table('kind', sa.Column('name', sa.Text)), [{'name': 'a'}])"
    ),
    "a column that its comment allows to go": (
        "# lint: allow ban-drop-column: no release since March reads it\n"
        "op.drop_column('orders', 'note')"
    ),
    "a view": "op.execute('CREATE VIEW paid_orders AS SELECT id FROM orders WHERE paid')",
}


@needs_squawk
@pytest.mark.parametrize("rule", DANGEROUS)
def test_what_is_dangerous_is_found_with_its_safe_way(
    depot: Depot, settings: ChassisSettings, rule: str
) -> None:
    down = "pass" if rule == "irreversible-downgrade" else "op.execute('SELECT 1')"
    depot.add("2", indent(DANGEROUS[rule], "    ").strip(), down)

    (finding,) = lint_migrations(depot.package, settings, "1")

    assert finding.message.startswith(rule)
    assert finding.message.endswith(f": {ALL_RULES[rule]}")
    assert Path(finding.path).name == "2.py"
    assert "2.py, line 1" in str(finding)


def test_each_rule_has_a_migration_that_breaks_it() -> None:
    assert DANGEROUS.keys() == ALL_RULES.keys()


@needs_squawk
@pytest.mark.parametrize("name", SAFE)
def test_what_is_safe_passes_and_runs(depot: Depot, settings: ChassisSettings, name: str) -> None:
    add(depot, "2", SAFE[name])

    assert found(depot, settings) == []
    upgrade(depot.package, settings)


def commit(folder: Path, *names: str) -> None:
    """Commit files in a repository."""
    for command in (["add", *names], ["commit", "-q", "-m", "change"]):
        git(folder, *command)


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True)


def head_of(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_new_are_the_revisions_that_gits_main_branch_does_not_have(
    depot: Depot, settings: ChassisSettings
) -> None:
    git(depot.versions, "init", "-q", "-b", "main")
    commit(depot.versions, "1.py")
    add(depot, "größer", "op.drop_table('orders')", down="execute('SET lock_timeout = 0')")
    commit(depot.versions, "größer.py")
    git(depot.versions, "checkout", "-q", "-b", "branch")
    add(depot, "3", "op.execute('SET lock_timeout = 0')")
    commit(depot.versions, "3.py")
    add(depot, "4", "op.execute('SET lock_timeout TO DEFAULT')")

    findings = lint_migrations(depot.package, settings)

    assert [Path(one.path).name for one in findings] == ["3.py", "4.py"]


def test_on_the_main_branch_new_is_what_its_last_commit_brought(
    depot: Depot, settings: ChassisSettings
) -> None:
    git(depot.versions, "init", "-q", "-b", "main")
    commit(depot.versions, "1.py")
    for name in ("2", "3"):
        add(depot, name, "op.execute('SET lock_timeout = 0')")
        commit(depot.versions, f"{name}.py")

    findings = lint_migrations(depot.package, settings)

    assert [Path(one.path).name for one in findings] == ["3.py"]


def test_a_package_that_moved_brings_no_new_revisions(
    depot: Depot, settings: ChassisSettings, tmp_path: Path
) -> None:
    add(depot, "2", "op.execute('SET lock_timeout = 0')")
    (tmp_path / "before").mkdir()
    for file in depot.versions.glob("*.py"):
        shutil.copy(file, tmp_path / "before")
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path, "before")
    git(tmp_path, "checkout", "-q", "-b", "branch")
    add(depot, "3", "op.execute('SET lock_timeout = 0')")
    shutil.rmtree(tmp_path / "before")
    commit(tmp_path, "--all", ".")

    findings = lint_migrations(depot.package, settings)

    assert [Path(one.path).name for one in findings] == ["3.py"]


def test_the_last_commit_of_a_shallow_clone_tells_nothing(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    add(depot, "2", "op.execute('SET lock_timeout = 0')")
    git(depot.versions, "init", "-q", "-b", "main")
    commit(depot.versions, "1.py", "2.py")
    (depot.versions / ".git" / "shallow").write_text(head_of(depot.versions), encoding="utf-8")

    assert lint_migrations(depot.package, settings) == []
    assert "not linted, as Git tells of no main branch" in caplog.text


def test_what_tells_no_new_revisions_is_said(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    add(depot, "2", "op.execute('SET lock_timeout = 0')")
    assert lint_migrations(depot.package, settings) == []
    says = "not linted, as Git tells of no main branch (fatal: not a git repository"
    assert says in caplog.text
    git(depot.versions, "init", "-q")
    assert lint_migrations(depot.package, settings) == []
    assert "as Git tells of no main branch: fetch it, or name" in caplog.text


def test_a_revision_is_named_in_alembic_ini_or_as_an_option(
    depot: Depot, settings: ChassisSettings
) -> None:
    for name in ("2", "3"):
        add(depot, name, "op.execute('SET lock_timeout = 0')")
    ini = Path("alembic.ini")
    ini.write_text("[alembic]\nscript_location = %(here)s\nlint_after = 2\n", encoding="utf-8")

    assert len(lint_migrations(depot.package, settings)) == 1
    assert len(lint_migrations(depot.package, settings, "1")) == 2
    assert len(lint_migrations(depot.package, settings, "base")) == 2
    with pytest.raises(CommandError, match=r"^--lint-after: .*'no'; name a revision, or base"):
        lint_migrations(depot.package, settings, "no")
    ini.write_text("[alembic]\nlint_after = no\n", encoding="utf-8")
    with pytest.raises(CommandError, match=r"^alembic.ini, lint_after: .*'no'; name"):
        lint_migrations(depot.package, settings)


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ("# lint: allow lock-timeout-off", "a rule and a reason: # lint: allow RULE: REASON"),
        ("# lint: allow lock-timeout-off:", "a rule and a reason"),
        ("# lint: ignore", "a rule and a reason"),
        ("# lint: allow lock-timeout: all is small", "no rule lock-timeout to allow: adding-"),
    ],
)
def test_a_comment_that_allows_has_a_rule_and_a_reason(
    depot: Depot, settings: ChassisSettings, comment: str, says: str
) -> None:
    add(depot, "2", f"{comment}\nop.execute('SET lock_timeout = 0')")

    wrong, danger = lint_migrations(depot.package, settings, "1")

    assert says in wrong.message
    assert wrong.line == 12
    assert "lock-timeout-off, SET lock_timeout = 0: whoever" in danger.message


def test_a_comment_allows_its_rule_in_its_revision_alone(
    depot: Depot, settings: ChassisSettings
) -> None:
    step = "op.execute('SET lock_timeout = 0')"
    add(depot, "2", f"{step}  # lint: allow lock-timeout-off: nobody is there at night")
    add(depot, "3", step)

    assert found(depot, settings) == ["lock-timeout-off, line 12"]


@needs_squawk
def test_new_revisions_share_a_transaction_unless_each_asks_for_its_own(
    depot: Depot, settings: ChassisSettings
) -> None:
    add(depot, "2", "op.add_column('orders', sa.Column('total', sa.Integer))")
    add(depot, "3", "op.execute('UPDATE orders SET total = 0')")

    assert found(depot, settings) == ["data-in-schema-change, line 12"]
    assert found(depot, settings, "2") == []
    depot.configure(options="transaction_per_migration=True")
    assert found(depot, settings) == []


@needs_squawk
def test_a_table_of_an_earlier_new_revision_is_new(depot: Depot, settings: ChassisSettings) -> None:
    add(depot, "2", NEW_TABLE)
    add(depot, "3", f"{BLOCK}op.create_index('ix_line_name', 'line', ['name'])")

    assert found(depot, settings) == []
    assert found(depot, settings, "2") == ["require-concurrent-index-creation, line 13"]


@needs_squawk
def test_what_fails_in_a_transaction_fails_on_a_new_table_too(
    depot: Depot, settings: ChassisSettings
) -> None:
    index = "op.create_index('ix', 'line', ['name'], postgresql_concurrently=True)"
    add(depot, "2", f"{NEW_TABLE}{index}")

    assert found(depot, settings) == ["ban-concurrent-index-creation-in-transaction, line 20"]


@needs_squawk
def test_what_undoes_itself_needs_no_downgrade(depot: Depot, settings: ChassisSettings) -> None:
    depot.add("2", "op.execute('ALTER TABLE orders VALIDATE CONSTRAINT ck')", "pass")

    assert found(depot, settings) == []


@needs_squawk
def test_a_table_that_goes_takes_its_indexes_along(depot: Depot, settings: ChassisSettings) -> None:
    add(depot, "2", "op.drop_index('ix_orders_code', 'orders')\nop.drop_table('orders')")

    assert found(depot, settings) == ["ban-drop-table, line 13"]


@needs_squawk
def test_a_check_of_an_older_revision_makes_not_null_safe(
    depot: Depot, settings: ChassisSettings
) -> None:
    add(depot, "2", CHECKED)
    add(depot, "3", f"{BATCH}alter_column('code', nullable=False)")

    assert found(depot, settings, "2") == []


@needs_squawk
def test_a_text_with_less_room_is_another_type(depot: Depot, settings: ChassisSettings) -> None:
    add(depot, "2", f"{BATCH}alter_column('code', type_=sa.String(10))")

    assert found(depot, settings) == ["changing-column-type, line 12"]


@needs_squawk
def test_what_asks_the_database_is_named_and_the_rest_is_linted(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    asks = "op.get_bind().execute(sa.text('SELECT 1')).scalar() + 1"
    add(depot, "2", f"op.drop_column('orders', 'note')\n{asks}")
    add(depot, "3", "op.drop_table('orders')")

    assert found(depot, settings) == ["ban-drop-column, line 12", "ban-drop-table, line 12"]
    assert "not linted from there on, a revision asks in 2.py, line 13: " in caplog.text


@needs_squawk
def test_what_squawk_cannot_read_is_named_and_the_rest_is_linted(
    depot: Depot, settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    add(depot, "2", "op.execute('PRAGMA foreign_keys=ON')\nop.drop_table('orders')")

    assert found(depot, settings) == ["ban-drop-table, line 13"]
    assert "not linted, as Squawk can't read it: PRAGMA foreign_keys=ON" in caplog.text
    caplog.clear()
    assert found(depot, settings, "2") == []
    assert "Squawk" not in caplog.text


def test_without_squawk_the_other_rules_run(
    depot: Depot,
    settings: ChassisSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(findings, "find_squawk", lambda: None)
    add(depot, "2", "op.drop_table('orders')\nop.execute('SET lock_timeout = 0')")

    assert found(depot, settings) == ["lock-timeout-off, line 13"]
    assert "squawk-cli is not installed, so there is no lint for: " in caplog.text
    assert all(rule in caplog.text for rule in SQUAWK_RULES)


def test_on_github_findings_stand_at_their_line(
    depot: Depot,
    settings: ChassisSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    add(depot, "2", "op.execute('SET lock_timeout = 0')")

    lint_migrations(depot.package, settings, "1")

    path = (depot.versions / "2.py").relative_to(Path.cwd()).as_posix()
    start = f"::error file={path},line=12,title=Migration::lock-timeout-off, SET lock"
    assert capsys.readouterr().out.startswith(start)


def test_the_command_lints_unless_sqlite_alone_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    def lint(package: str, settings: DatabaseSettings, after: str | None) -> list[str]:
        asked.append(after)
        return ["2.py, line 1: a danger"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(findings, "lint_migrations", lint)

    # The sample's models have no tables, which is a fault of another kind.
    invoke = partial(CliRunner().invoke, run)
    invoke(["migrate", "--check", "--database", "sqlite"])
    assert asked == []
    result = invoke(["migrate", "--check", "--lint-after", "base"])
    assert (result.exit_code, asked) == (1, ["base"])
    assert "Error: 2.py, line 1: a danger\n" in result.stderr


GUIDE = Path(__file__).parent.parent / "docs" / "migrations.md"


@needs_squawk
def test_the_revisions_of_the_guide_pass_one_after_another_and_run(
    depot: Depot, settings: ChassisSettings
) -> None:
    section = GUIDE.read_text(encoding="utf-8").partition("## Dangerous migrations")[2]
    add(depot, "2", "op.create_table('users', sa.Column('id', sa.Integer, primary_key=True))")
    blocks = re.findall(r"```python\ndef upgrade\(\) -> None:\n(.*?)```", section, re.DOTALL)
    for number, block in enumerate(blocks, 3):
        add(depot, str(number), dedent(block))

    assert len(blocks) == 6
    assert found(depot, settings, "2") == []
    upgrade(depot.package, settings)


@needs_squawk
def test_the_guide_names_each_rule() -> None:
    assert set(re.findall(r"`([a-z-]+)`", GUIDE.read_text(encoding="utf-8"))) >= ALL_RULES.keys()
