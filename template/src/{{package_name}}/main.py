"""Make the service: the one place that knows all its parts."""

from chassis import create_app
from fastapi import FastAPI

from .routers import routers
from .settings import Settings


def create_service(settings: Settings | None = None) -> FastAPI:
    """Build the application, from the environment's settings where none are given."""
    return create_app(settings or Settings(), package=__name__, routers=routers)
