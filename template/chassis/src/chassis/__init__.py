"""What a service inherits: its application, commands and settings; chassis.db is its database."""

from .app import create_app
from .cli import create_cli
from .settings import ChassisSettings

__all__ = ["ChassisSettings", "__version__", "create_app", "create_cli"]

__version__ = "0.1.0"
