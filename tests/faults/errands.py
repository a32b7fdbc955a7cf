"""A service whose jobs note when they ran, and the commands work and produce.

What a job is for, a wish, is committed with it. One with a negative number is rolled back.
"""

import asyncio
import os
import random
import time
from itertools import count
from pathlib import Path

from chassis import ChassisSettings, create_app, create_cli, pass_settings
from chassis.db import Base, Sessions, open_sessions, session_scope
from chassis.jobs import job
from fastapi import FastAPI
from sqlalchemy import BigInteger, update
from sqlalchemy.orm import Mapped, mapped_column

LONGEST_SECONDS = 0.2
TASKS = 6


class Settings(ChassisSettings):
    """How the producer goes about it."""

    enqueue_after_commit: bool = False


class Wish(Base):
    """A number that a job has to be run for."""

    __tablename__ = "wish"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class Run(Base):
    """From when to when a job ran, by the machine's clock, and in which process."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    process: Mapped[int]
    began: Mapped[float]
    ended: Mapped[float | None]


@job(retries=1000)
async def fulfil(number: int, seconds: float, sessions: Sessions) -> None:
    """Note the run, take so long, and note its end."""
    run = Run(number=number, process=os.getpid(), began=time.time())
    async with session_scope(sessions.write) as session:
        session.add(run)
        await session.commit()
    try:
        await asyncio.sleep(seconds)
        async with session_scope(sessions.write) as session:
            await session.execute(update(Run).where(Run.id == run.id).values(ended=time.time()))
            await session.commit()
    finally:
        note_end(run.id)


def note_end(run_id: int) -> None:
    """Note that a run is over; one that was cancelled can't write to the database any more."""
    with Path("ends").open("a") as file:
        file.write(f"{run_id} {time.time()}\n")


@job(retries=0)
async def linger(number: int, sessions: Sessions) -> None:
    """Note the run, which only a stop ends."""
    await fulfil.function(number, 3600, sessions)


@job(retries=0)
async def whisper(number: int, seconds: float) -> None:
    """Take so long and note the end, without the database."""
    await asyncio.sleep(seconds)
    note_end(number)


def create_errands(settings: Settings | None = None) -> FastAPI:
    """Build the application."""
    return create_app(settings or Settings(), package=__name__, jobs=(fulfil, linger, whisper))


run = create_cli("errands:create_errands", settings=Settings)


@run.command()
@pass_settings
async def produce(settings: Settings) -> None:
    """Make wishes until the process is killed."""
    numbers = count(os.getpid() * 1_000_000)
    async with open_sessions(settings) as sessions:

        async def make_wishes() -> None:
            for number in numbers:
                await make_wish(sessions, number, late=settings.enqueue_after_commit)
                await make_wish(sessions, -number, late=False)
                await asyncio.sleep(random.uniform(0, 2 * LONGEST_SECONDS))

        await asyncio.gather(*(make_wishes() for _ in range(TASKS)))


async def make_wish(sessions: Sessions, number: int, *, late: bool) -> None:
    """Make one, with its job in the same transaction unless that is late."""
    seconds = random.uniform(0, 4 * LONGEST_SECONDS)
    async with session_scope(sessions.write) as session:
        session.add(Wish(number=number))
        if late:
            await session.commit()
            # Longer than all else, so that a kill comes here.
            await asyncio.sleep(10 * LONGEST_SECONDS)
        await fulfil.enqueue(session, number=number, seconds=seconds)
        if number > 0:
            await session.commit()
