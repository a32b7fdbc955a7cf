"""Code that a team writes into a service, for the scenarios."""

ORDER = '''"""An order."""

from chassis.db import Base
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(100))
'''

ORDERS = """op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("customer", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )"""

MIGRATION = '''"""{name}

Revision ID: {revision}
Revises: {previous}
"""

from collections.abc import Sequence

import sqlalchemy as sa  # noqa: F401
from alembic import op  # noqa: F401

revision: str = "{revision}"
down_revision: str | Sequence[str] | None = {previous!r}
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''

ORDER_LIMIT = '''

async def get_order_limit(settings: AppSettings) -> int:
    """Return how many orders are listed at once."""
    return settings.order_limit


OrderLimit = Annotated[int, Depends(get_order_limit)]
'''

ORDER_ROUTES = '''"""Orders over HTTP."""

from collections.abc import Sequence

from chassis.db import DbReadSession, DbSession
from fastapi import APIRouter
from sqlalchemy import select

from ..dependencies import OrderLimit
from ..models.order import Order

router = APIRouter(prefix="/orders")


@router.post("", status_code=201)
async def create_order(customer: str, session: DbSession) -> int:
    order = Order(customer=customer)
    session.add(order)
    await session.commit()
    return order.id


@router.get("")
async def list_orders(session: DbReadSession, limit: OrderLimit) -> Sequence[str]:
    return (await session.scalars(select(Order.customer).limit(limit))).all()
'''

ORDER_TEST = '''"""Orders, as a client sees them."""

from httpx2 import AsyncClient


async def test_an_order_is_listed(client: AsyncClient) -> None:
    created = await client.post("/orders", params={"customer": "Ada"})
    assert created.status_code == 201
    assert (await client.get("/orders")).json() == ["Ada"]
'''

PING = '''"""A route without a database."""

from fastapi import APIRouter

router = APIRouter()


@router.get("/ping")
async def ping() -> str:
    return "pong"
'''

MIDDLEWARE = """
    @app.middleware("http")
    async def name_the_team(request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        response.headers["x-team"] = "ours"
        return response

    return app
"""

OTHER_TEST = '''"""The team's own idea of a test."""

from httpx2 import AsyncClient


async def test_the_service_answers(client: AsyncClient) -> None:
    assert (await client.get("/livez")).status_code == 200
'''

NO_ROUTERS = '''"""Every router of the service."""

from fastapi import APIRouter

routers: list[APIRouter] = []
'''

NO_MODELS = '''"""Every model of the service."""

from chassis.db import Base

__all__ = ["Base"]
'''

COMPOSE_WORKER = """
  worker:
    build: .
    environment:
      RUN_DB_MIGRATIONS: "false"
    volumes:
      - data:/app/data
    read_only: true
    tmpfs:
      - /tmp
    restart: unless-stopped

volumes:
"""
