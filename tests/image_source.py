"""A service's folder as its image is built from it, and what a team changes in it."""

import shutil
import sys
from pathlib import Path

from uv import find_uv_bin

from tests.containers import call

SECRET = "not-for-the-image"
SECRET_FILES = (".env", ".env.production", "data/app.db", ".git/config", "chassis/.env", "src/.env")

SLOW_ROUTE = '''"""A route that takes its time."""

import asyncio
from decimal import Decimal

from chassis.db import DbSession
from fastapi import APIRouter

from ..models import Item

router = APIRouter()


@router.post("/slow", status_code=201)
async def create_slowly(seconds: float, session: DbSession) -> int:
    await asyncio.sleep(seconds)
    item = Item(name="slow", quantity=1, price=Decimal(1))
    session.add(item)
    await session.commit()
    return item.id
'''
BROKEN_REVISION = '''"""break"""

import sqlalchemy as sa
from alembic import op

revision: str = "b0b0b0b0b0b0"
down_revision: str | None = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("orders", sa.Column("id", sa.Integer(), primary_key=True))
    op.execute("SELECT no_such_column FROM items")


def downgrade() -> None:
    op.drop_table("orders")
'''


def prepare(rendered: Path, folder: Path) -> Path:
    """Copy a render, make its lock, and put there what a team has beside the code."""
    shutil.copytree(rendered, folder)
    lock(folder)
    for name in (*SECRET_FILES, f"src/{package_of(folder).name}/.env.local"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"APP_DATABASE_POSTGRES_PASSWORD={SECRET}\n", encoding="utf-8")
    return folder


def lock(folder: Path) -> None:
    """Make a service's uv.lock."""
    python = {"UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never"}
    call(find_uv_bin(), "lock", "--project", str(folder), **python).check()


def change(source: Path, folder: Path) -> Path:
    """Copy a service and change code of both halves of it."""
    shutil.copytree(source, folder)
    routers = package_of(folder) / "routers"
    (routers / "slow.py").write_text(SLOW_ROUTE, encoding="utf-8")
    _replace(routers / "__init__.py", "import items", "import items, slow")
    _replace(routers / "__init__.py", "items.router,", "items.router,\n    slow.router,")
    _replace(folder / "chassis/src/chassis/http/health.py", '"ok"', '"changed"')
    return folder


def break_migrations(source: Path, folder: Path) -> Path:
    """Copy a service and give it a revision that fails halfway."""
    shutil.copytree(source, folder)
    versions = package_of(folder) / "migrations" / "versions"
    head = min(versions.glob("*.py")).name.partition("_")[0]
    revision = BROKEN_REVISION.format(head=head)
    (versions / "b0b0b0b0b0b0_break.py").write_text(revision, encoding="utf-8")
    return folder


def package_of(folder: Path) -> Path:
    """Find the folder of the service's own code."""
    return min(folder.glob("src/*/main.py")).parent


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{file} does not hold {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")
