"""The application: what every service has around its routers."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI

from .db.health import DatabaseProbe
from .db.session import open_sessions
from .errors import add_error_handlers, describe_problems
from .health import router as health_router
from .settings import ChassisSettings

logger = logging.getLogger(__name__)


def create_app(
    settings: ChassisSettings, *, package: str, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """Build a service's application; nothing connects before it is started.

    `package` is the service's own name, `__name__` of its main module: its migrations are found
    by it. The settings are at `app.state.settings`.
    """
    package = package.partition(".")[0]
    app = FastAPI(
        title=package.replace("_", " ").title(),
        lifespan=_lifespan,
        docs_url="/docs" if settings.docs_enabled else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs_enabled else None,
    )
    app.state.settings = settings
    app.state.package = package
    add_error_handlers(app)
    _describe_problems(app)
    for router in (health_router, *routers):
        app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: ChassisSettings = app.state.settings
    logger.info(settings.describe_database())
    for warning in settings.database_warnings:
        logger.warning(warning)
    async with open_sessions(settings) as app.state.sessions:
        probe = app.state.database_probe = DatabaseProbe(settings, app.state.package)
        try:
            yield
        finally:
            await probe.dispose()


def _describe_problems(app: FastAPI) -> None:
    document = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe_problems(document())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
