"""Print how long page 1 and page 10,000 of a list take on both engines: python -m tests.page_times.

The same page by OFFSET is beside them. Times hold nothing: the chassis's tests look at the plans.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from time import perf_counter
from typing import Any

from chassis.db import (
    Base,
    DatabaseSettings,
    create_read_engine,
    create_session_factory,
    session_scope,
)
from chassis.pages import PageRequest, keyset
from fastapi import Request, Response
from sqlalchemy import Index, create_engine, select, text
from sqlalchemy.orm import Mapped, mapped_column

from tests.model_table import open_databases
from tests.models.trial import ENGINES
from tests.postgres import start_postgres

LIMIT, DEEP = 50, 10_000
ROWS = LIMIT * (DEEP + 100)


class Event(Base):
    """A row of many: three at each moment, and each second one has no end."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    __table_args__ = (Index(None, "at", "id"), Index(None, "ended_at", "id"))


Index("ix_events_mixed", Event.at.desc(), Event.id)
MOMENTS = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 1700000000 + n / 3, 'unixepoch')",
    "postgres": "to_timestamp(1700000000 + n / 3)",
}
ORDERS: dict[str, list[Any]] = {
    "newest first": [Event.at.desc(), Event.id.desc()],
    "mixed directions": [Event.at.desc(), Event.id],
    "NULLs first": [Event.ended_at.desc(), Event.id.desc()],
}


def fill(settings: DatabaseSettings, engine: str) -> None:
    """Create the table with its rows."""
    url, arguments = settings.database_target.migration()
    database = create_engine(url, connect_args=arguments)
    moment = MOMENTS[engine].replace(":", r"\:")
    numbers = f"SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS}"
    with database.begin() as connection:
        Base.metadata.create_all(connection)
        connection.execute(
            text(
                f"INSERT INTO events WITH RECURSIVE numbers (n) AS ({numbers}) "
                f"SELECT n, {moment}, CASE WHEN n % 2 = 0 THEN {moment} END FROM numbers"
            )
        )
        connection.execute(text("ANALYZE"))
    database.dispose()


async def time_pages(settings: DatabaseSettings, order: list[Any]) -> list[float]:
    """Return the median milliseconds of page 1, of page 10,000, and of that by OFFSET."""
    listed, skipping = keyset(select(Event), *order), keyset(select(Event), *order)
    skipping._statement = skipping._statement.offset(LIMIT * (DEEP - 2))
    request = Request({"type": "http", "path": "/", "query_string": b"", "headers": []})
    first = PageRequest(None, LIMIT, request, Response())
    engine = create_read_engine(settings)
    async with session_scope(create_session_factory(settings, engine)) as session:
        deep = replace(first, cursor=(await skipping.page(session, first)).next)
        times = [
            await time_median(lambda: listed.page(session, first), 200),
            await time_median(lambda: listed.page(session, deep), 200),
            await time_median(lambda: skipping.page(session, first), 5),
        ]
    await engine.dispose()
    return times


async def time_median(work: Callable[[], Awaitable[object]], count: int) -> float:
    """Return how many milliseconds some work takes."""
    times = []
    for _ in range(count):
        started = perf_counter()
        await work()
        times.append((perf_counter() - started) * 1000)
    return statistics.median(times)


def main() -> None:
    """Print a line for each engine and order."""
    print(f"{'':28} {'page 1':>9} {f'page {DEEP:,}':>12} {'by OFFSET':>10}   ms")
    with start_postgres() as server, open_databases(server) as databases:
        for engine in ENGINES:
            settings = databases.create(engine)
            fill(settings, engine)
            for name, order in ORDERS.items():
                one, deep, offset = asyncio.run(time_pages(settings, order))
                print(f"{engine:9} {name:18} {one:9.2f} {deep:12.2f} {offset:10.1f}", flush=True)


if __name__ == "__main__":
    main()
