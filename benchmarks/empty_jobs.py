"""A service with a job of nothing; it imports no tests, which clear the environment."""

from chassis import ChassisSettings, create_app, create_cli
from chassis.jobs import job
from fastapi import FastAPI


@job
async def empty() -> None:
    """Do nothing."""


def create_service() -> FastAPI:
    """Build the application that has the job."""
    return create_app(ChassisSettings(), package=__name__, jobs=(empty,))


run = create_cli("benchmarks.empty_jobs:create_service", settings=ChassisSettings)
