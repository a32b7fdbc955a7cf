"""The application for servers of other makes: FastAPI's own command, uvicorn's, and others."""

import logging
import sys
from collections.abc import Callable

from fastapi import FastAPI

from .service import InvalidSettingsError, SettingsT, load_settings


def create_asgi_app(
    create_service: Callable[[SettingsT], FastAPI], *, settings: type[SettingsT]
) -> FastAPI:
    """Read the settings, begin to log as `serve` does, and build the application.

    For the `asgi.py` of a service. Wrong settings are one message, and exit with 2.
    """
    is_unconfigured = not logging.root.handlers
    try:
        loaded = load_settings(settings)
    except InvalidSettingsError as error:
        error.show()
        sys.exit(error.exit_code)
    app = create_service(loaded)
    if is_unconfigured:
        _remove_server_handlers()
        # Some servers configure their logs after they imported the application.
        app.router.on_startup.append(_remove_server_handlers)
    return app


def _remove_server_handlers() -> None:
    """Let the chassis write uvicorn's lines, and the only access line of a request."""
    for name in ("uvicorn", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
    logging.getLogger("uvicorn").propagate = True
