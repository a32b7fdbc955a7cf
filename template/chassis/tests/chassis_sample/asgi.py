"""The sample's application for servers of other makes."""

from chassis import create_asgi_app

from .main import Settings, create_service

app = create_asgi_app(create_service, settings=Settings)
