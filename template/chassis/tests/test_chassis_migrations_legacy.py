"""A database that is older than the chassis: its revisions run, and its names stay."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from chassis_depot import Depot, written
from chassis_stock import executing, only_on
from click import ClickException
from sqlalchemy import inspect, text

from chassis import ChassisSettings
from chassis.commands.migrate import migrate_service
from chassis.db import DatabaseSettings
from chassis.db.migrations.revisions import UnversionedDatabaseError
from chassis.db.migrations.scripts import alembic_config
from chassis.db.migrations.upgrade import downgrade, upgrade

GUIDE = Path(__file__).parent.parent / "docs" / "migrations.md"
MODELS = """
class User(Base):
    __tablename__ = 'user'
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(255), unique=True)
    name: Mapped[str | None] = mapped_column(sa.String(99), index=True)


class Item(Base):
    __tablename__ = 'item'
    __table_args__ = (
        sa.UniqueConstraint('owner_id', 'title'),
        sa.CheckConstraint('price >= 0', name='item_price_check'),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(255))
    price: Mapped[int]
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey('user.id', ondelete='CASCADE'))


metadata = Base.metadata
"""
# Nothing has a name but what PostgreSQL gives.
CREATE = """
    op.create_table('user',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('email', sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('email'),
    )
    op.create_table('item',
        sa.Column('id', sa.Integer(), primary_key=True),
        sa.Column('title', sa.String(255), nullable=False),
        sa.Column('price', sa.Integer(), nullable=False),
        sa.Column('owner_id', sa.Integer(), sa.ForeignKey('user.id'), nullable=False),
        sa.CheckConstraint('price >= 0', name='item_price_check'),
        sa.UniqueConstraint('owner_id', 'title'),
    )
"""
CASCADE = """
    with op.batch_alter_table('item') as item:
        item.drop_constraint('item_owner_id_fkey', type_='foreignkey')
        item.create_foreign_key(
            'item_owner_id_fkey', 'user', ['owner_id'], ['id'], ondelete='CASCADE')
"""
NO_CASCADE = CASCADE.replace(", ondelete='CASCADE'", "")
RENAME = """
    with op.batch_alter_table('user') as user:
        user.drop_constraint('user_email_key', type_='unique')
        user.add_column(sa.Column('name', sa.String(99)))
        user.create_unique_constraint('user_email_key', ['email'])
    op.create_index('ix_user_name', 'user', ['name'])
"""
UNDO_RENAME = """
    op.drop_index('ix_user_name', 'user')
    with op.batch_alter_table('user') as user:
        user.drop_column('name')
"""
NAMES = {
    "item": {"item_pkey", "item_owner_id_fkey", "item_owner_id_title_key", "item_price_check"},
    "user": {"user_pkey", "user_email_key", "ix_user_name"},
}


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    """Yield a package with the models of an older service, as the guide has them moved."""
    with written(tmp_path) as depot:
        write_models(depot, MODELS, "models")
        yield depot


def write_models(depot: Depot, models: str, name: str) -> None:
    """Write a module of models that begins as the guide says, for env.py to import."""
    block = re.search(r"```python\n(import chassis.db\n.*?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    imports = "import sqlalchemy as sa\nfrom sqlalchemy.orm import Mapped, mapped_column\n"
    module = depot.versions.parent.parent / f"{name}.py"
    module.write_text(f"{imports}{block[1]}{models}", encoding="utf-8")
    depot.configure(f"from {depot.package}.{name} import metadata")


def add_chain(depot: Depot) -> None:
    depot.add("a1", CREATE.strip(), "op.drop_table('item'); op.drop_table('user')")
    depot.add("a2", CASCADE.strip(), NO_CASCADE.strip())
    depot.add("a3", RENAME.strip(), UNDO_RENAME.strip())


def check(depot: Depot, settings: DatabaseSettings) -> None:
    command.check(alembic_config(depot.package, settings))


def names(settings: DatabaseSettings, table: str) -> set[str | None]:
    with executing(settings) as connection:
        inspector = inspect(connection)
        found = [
            inspector.get_pk_constraint(table),
            *inspector.get_foreign_keys(table),
            *inspector.get_unique_constraints(table),
            *inspector.get_check_constraints(table),
            *(one for one in inspector.get_indexes(table) if "duplicates_constraint" not in one),
        ]
        return {one["name"] for one in found}


def test_an_older_chain_runs_up_and_down_with_its_names(
    depot: Depot, settings: ChassisSettings
) -> None:
    add_chain(depot)

    for _ in range(2):
        upgrade(depot.package, settings)
        assert {table: names(settings, table) for table in NAMES} == NAMES
        check(depot, settings)
        downgrade(depot.package, settings, "base")


def test_the_names_are_those_that_postgresql_gives_by_itself(
    depot: Depot, settings: ChassisSettings
) -> None:
    only_on("postgres", settings)
    depot.configure()
    add_chain(depot)

    upgrade(depot.package, settings)

    assert {table: names(settings, table) for table in NAMES} == NAMES


def test_what_is_generated_later_goes_on_with_them(depot: Depot, settings: ChassisSettings) -> None:
    add_chain(depot)
    upgrade(depot.package, settings)
    model = MODELS.replace(
        "    price: Mapped[int]",
        "    price: Mapped[int]\n"
        "    buyer_id: Mapped[int | None] = mapped_column(sa.ForeignKey('user.id'))",
    )
    write_models(depot, model, "later")

    assert "item_buyer_id_fkey" in depot.generate(settings)
    upgrade(depot.package, settings)
    assert names(settings, "item") == NAMES["item"] | {"item_buyer_id_fkey"}
    downgrade(depot.package, settings, "a3")
    assert names(settings, "item") == NAMES["item"]


def test_a_baseline_takes_the_place_of_the_chain(depot: Depot, settings: ChassisSettings) -> None:
    add_chain(depot)
    upgrade(depot.package, settings)
    with executing(settings) as connection:
        connection.execute(text("INSERT INTO \"user\" (email) VALUES ('ann@example.com')"))
    for name in ("a1", "a2", "a3"):
        depot.forget(name)
    depot.branch_from(None)
    depot.add("baseline", CREATE.strip())

    command.stamp(alembic_config(depot.package, settings), "head", purge=True)

    check(depot, settings)
    upgrade(depot.package, settings)
    with executing(settings) as connection:
        assert connection.scalar(text('SELECT count(*) FROM "user"')) == 1
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "baseline"


def test_a_generated_baseline_makes_the_names_of_the_chain(
    depot: Depot, settings: ChassisSettings
) -> None:
    depot.generate(settings)

    upgrade(depot.package, settings)

    assert {table: names(settings, table) for table in NAMES} == NAMES


def test_tables_without_a_revision_are_not_migrated_over(
    depot: Depot, settings: ChassisSettings
) -> None:
    add_chain(depot)
    upgrade(depot.package, settings)
    with executing(settings) as connection:
        connection.execute(text("DROP TABLE alembic_version"))

    with pytest.raises(UnversionedDatabaseError, match="alembic stamp"):
        upgrade(depot.package, settings)
    with pytest.raises(ClickException, match="alembic stamp"):
        migrate_service(depot.package, settings, wait=False)

    command.stamp(alembic_config(depot.package, settings), "head")
    upgrade(depot.package, settings)
    check(depot, settings)
