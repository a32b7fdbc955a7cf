"""The application for servers of other makes: `fastapi dev`, `uvicorn <package>.asgi:app` …"""

from chassis import create_asgi_app

from .main import create_service
from .settings import Settings

app = create_asgi_app(create_service, settings=Settings)
