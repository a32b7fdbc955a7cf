"""What handlers ask for besides a session: a function, and the alias that they use."""

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from .settings import Settings


async def get_settings(connection: HTTPConnection) -> Settings:
    """Return the settings that the service was made with."""
    settings: Settings = connection.scope["chassis"].settings
    return settings


AppSettings = Annotated[Settings, Depends(get_settings)]
