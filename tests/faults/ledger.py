"""A small service for the fault tests: it keeps numbers, and says which it has."""

from chassis import ChassisSettings, create_app
from chassis.db import Base, DbReadSession, DbSession
from fastapi import APIRouter, FastAPI
from sqlalchemy import BigInteger, select
from sqlalchemy.orm import Mapped, mapped_column

router = APIRouter()


class Entry(Base):
    """A number that was acknowledged, or was about to be."""

    __tablename__ = "entry"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


@router.put("/entries/{number}")
async def keep(number: int, session: DbSession) -> int:
    """Acknowledge a number once it is committed."""
    session.add(Entry(number=number))
    await session.commit()
    return number


@router.get("/entries")
async def entries(session: DbReadSession) -> list[int]:
    """Give all numbers."""
    return list(await session.scalars(select(Entry.number)))


def create_ledger() -> FastAPI:
    """Build the service from its environment."""
    return create_app(ChassisSettings(), package=__name__, routers=[router])
