"""The sample's command: python -m chassis_sample."""

import asyncio
import logging

import click

from chassis import create_cli, pass_settings

from .main import Settings

logger = logging.getLogger(__name__)

run = create_cli("chassis_sample.main:create_service", settings=Settings)


@run.command()
@click.option("--seconds", type=float, default=3600)
@pass_settings
async def linger(settings: Settings, seconds: float) -> None:
    """Take a while."""
    logger.info("the work has begun: %s", settings.greeting)
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0)
        logger.info("the work was put down")


if __name__ == "__main__":
    run(prog_name="sample")
