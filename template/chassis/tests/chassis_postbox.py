"""A service whose jobs take as long as they are told: python -m chassis_postbox work."""

import asyncio
import logging
from contextlib import suppress

from chassis_stock import Item
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import ChassisSettings, create_app, create_cli
from chassis.jobs import job

logger = logging.getLogger(__name__)


@job
async def deliver(name: str, seconds: float, session: AsyncSession) -> None:
    """Write a row, some time after the beginning."""
    logger.info("begun: %s", name)
    await asyncio.sleep(seconds)
    session.add(Item(name=name))


@job(timeout_seconds=0.1)
async def insist() -> None:
    """Go on whoever cancels it."""
    logger.info("begun: insist")
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@job
async def rest() -> None:
    """Do nothing."""


def create_service(settings: ChassisSettings | None = None) -> FastAPI:
    """Build the application."""
    return create_app(settings or ChassisSettings(), package=__name__, jobs=(deliver, insist, rest))


run = create_cli("chassis_postbox:create_service", settings=ChassisSettings)

if __name__ == "__main__":
    run(prog_name="postbox")
