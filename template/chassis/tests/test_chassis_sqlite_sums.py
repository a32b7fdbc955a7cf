"""Sums of a Numeric: exact on SQLite as they are on PostgreSQL, or an error."""

import random
from decimal import Decimal
from typing import Any

import pytest
from chassis_stock import create_tables
from sqlalchemy import (
    Float,
    ForeignKey,
    MetaData,
    Numeric,
    case,
    distinct,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, aliased, mapped_column

from chassis import ChassisSettings
from chassis.db import NAMING_CONVENTION, Base


class Apart(Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Payer(Apart):
    __tablename__ = "payer"

    id: Mapped[int] = mapped_column(primary_key=True)


class Payment(Apart):
    __tablename__ = "payment"

    id: Mapped[int] = mapped_column(primary_key=True)
    payer_id: Mapped[int] = mapped_column(ForeignKey("payer.id"))
    amount: Mapped[Decimal] = mapped_column(Numeric(15, 2))
    fee: Mapped[Decimal | None] = mapped_column(Numeric(15, 2))
    rate: Mapped[Decimal] = mapped_column(Numeric(6, 4), default=Decimal(1))
    count: Mapped[int] = mapped_column(default=1)
    weight: Mapped[float] = mapped_column(Float, default=0.5)


P = Payment


@pytest.fixture(autouse=True)
async def _rows(settings: ChassisSettings, session: AsyncSession) -> None:
    create_tables(settings, Apart.metadata)
    await session.execute(insert(Payer), [{"id": 1}, {"id": 2}])
    await session.commit()


async def fill(session: AsyncSession, amounts: list[Decimal], **values: Any) -> None:
    rows = [
        {"payer_id": 1 + number % 2, "amount": amount, **values}
        for number, amount in enumerate(amounts)
    ]
    await session.execute(insert(Payment), rows)


def large_amounts(number: int) -> list[Decimal]:
    """Return amounts of which SQLite's own sum has lost a cent, in its releases before 3.43."""
    chance = random.Random(1)
    return [Decimal(chance.randrange(10**12)).scaleb(-2) for _ in range(number)]


@pytest.mark.parametrize(
    "amounts", [large_amounts(1000), [Decimal("0.1")] * 10, [Decimal("-0.07")]]
)
async def test_a_sum_has_every_cent(session: AsyncSession, amounts: list[Decimal]) -> None:
    await fill(session, amounts)
    total = await session.scalar(select(func.sum(P.amount)))
    assert isinstance(total, Decimal)
    assert str(total) == str(sum(amounts, Decimal("0.00")))
    await fill(session, [Decimal("4999999999999.99"), Decimal("-4999999999999.99")])
    assert await session.scalar(select(func.sum(P.amount))) == sum(amounts)


A, AMOUNTS = aliased(Payment), [Decimal(10**11 + number).scaleb(-2) for number in range(8)]
HALF = select(P.amount.label("part"), P.count).where(P.payer_id == 1).subquery()
SUMS: dict[str, tuple[Any, list[Decimal | None]]] = {
    "nothing": (select(func.sum(P.amount)).where(P.id < 0), [None]),
    "or zero": (select(func.coalesce(func.sum(P.amount), 0)).where(P.id < 0), [Decimal(0)]),
    "an alias": (select(func.sum(A.amount)), [sum(AMOUNTS, Decimal())]),
    "a subquery": (select(func.sum(HALF.c.part)), [sum(AMOUNTS[::2], Decimal())]),
    "of each": (
        select(func.sum(P.amount)).group_by(P.payer_id).order_by(P.payer_id),
        [sum(AMOUNTS[::2], Decimal()), sum(AMOUNTS[1::2], Decimal())],
    ),
    "of those above": (
        select(func.sum(P.amount))
        .group_by(P.payer_id)
        .having(func.sum(P.amount) > sum(AMOUNTS) / 2),
        [sum(AMOUNTS[1::2], Decimal())],
    ),
    "some": (
        select(func.sum(P.amount).filter(P.payer_id == 1)),
        [sum(AMOUNTS[::2], Decimal())],
    ),
    "a window": (
        select(func.sum(P.amount).over(order_by=P.id)).order_by(P.id),
        [sum(AMOUNTS[: number + 1], Decimal()) for number in range(8)],
    ),
    "a window of some": (
        select(func.sum(P.amount).filter(P.payer_id == 1).over()).limit(1),
        [sum(AMOUNTS[::2], Decimal())],
    ),
    "a window of sums": (
        select(func.sum(func.sum(P.amount)).over(order_by=P.payer_id))
        .group_by(P.payer_id)
        .order_by(P.payer_id),
        [sum(AMOUNTS[::2], Decimal()), sum(AMOUNTS, Decimal())],
    ),
    "other windows": (select(func.max(P.amount).over()).limit(1), [AMOUNTS[-1]]),
    "different ones": (select(func.sum(distinct(P.amount))), [sum(AMOUNTS, Decimal())]),
    "multiples": (select(func.sum(P.amount * P.count)), [3 * sum(AMOUNTS, Decimal())]),
    "constant multiples": (select(func.sum(2 * P.amount)), [2 * sum(AMOUNTS, Decimal())]),
    "a sum of columns": (
        select(func.sum((P.amount + P.fee) * P.count)),
        [3 * sum((one + Decimal("0.07") for one in AMOUNTS), Decimal())],
    ),
    "a difference": (
        select(func.sum(P.amount - P.fee)),
        [sum((one - Decimal("0.07") for one in AMOUNTS), Decimal())],
    ),
    "of a choice": (
        select(func.sum(case((P.payer_id == 1, P.amount), else_=literal(0)))),
        [sum(AMOUNTS[::2], Decimal())],
    ),
    "with what is missing": (
        select(func.sum(func.coalesce(P.fee, 0))),
        [Decimal("0.56")],
    ),
}


@pytest.mark.parametrize("sums", SUMS)
async def test_a_sum_is_exact_wherever_it_stands(session: AsyncSession, sums: str) -> None:
    await fill(session, AMOUNTS, count=3, fee=Decimal("0.07"))
    statement, wanted = SUMS[sums]
    assert list(await session.scalars(statement)) == wanted


async def test_a_sum_of_products_of_fractions_is_rounded_once(session: AsyncSession) -> None:
    """Each product has more decimals than the column: rounding each would lose them."""
    await fill(session, [Decimal("0.01")] * 4, rate=Decimal("0.25"))
    total = await session.scalar(select(func.sum(P.amount * P.rate)))
    assert total == Decimal("0.01")
    await fill(session, [Decimal("0.05")] * 4)
    squares = select(func.sum(P.amount * P.amount)).where(P.amount > Decimal("0.01"))
    assert await session.scalar(squares) == Decimal("0.01")


async def test_other_sums_are_as_they_were(session: AsyncSession) -> None:
    await fill(session, [Decimal(1)] * 4)
    assert await session.scalar(select(func.sum(P.weight))) == 2.0
    assert await session.scalar(select(func.sum(P.count))) == 4


async def test_a_sum_that_no_double_holds_is_an_error(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    await fill(session, [Decimal("9999999999999.99")])
    assert await session.scalar(select(func.sum(P.amount))) == Decimal("9999999999999.99")
    await fill(session, [Decimal("999999999.99")])
    if settings.database_target.backend == "postgres":
        total = await session.scalar(select(func.sum(P.amount)))
        assert total == Decimal("10000999999999.98")
    else:
        with pytest.raises(OperationalError, match="integer overflow"):
            await session.scalar(select(func.sum(P.amount)))
