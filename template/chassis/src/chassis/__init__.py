"""What a service inherits: its application, commands and settings; chassis.db is its database.

Each name is imported when it is first asked for, so that a part costs nothing while it is not used.
"""

import gc
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import create_app
    from .commands.asgi import create_asgi_app
    from .commands.cli import create_cli
    from .commands.service import pass_settings
    from .http.health import add_readiness_check
    from .http.limits import request_limits
    from .http.problems import Problem, ProblemError, problem_responses
    from .http.request import add_log_fields, outgoing_headers, request_context, request_id
    from .http.responses import problem_response
    from .settings import ChassisSettings

__all__ = [
    "ChassisSettings",
    "Problem",
    "ProblemError",
    "__version__",
    "add_log_fields",
    "add_readiness_check",
    "create_app",
    "create_asgi_app",
    "create_cli",
    "outgoing_headers",
    "pass_settings",
    "problem_response",
    "problem_responses",
    "request_context",
    "request_id",
    "request_limits",
]

__version__ = "0.1.0"

_MODULES = {
    "ChassisSettings": "settings",
    "Problem": "http.problems",
    "ProblemError": "http.problems",
    "add_log_fields": "http.request",
    "add_readiness_check": "http.health",
    "create_app": "app",
    "create_asgi_app": "commands.asgi",
    "create_cli": "commands.cli",
    "outgoing_headers": "http.request",
    "pass_settings": "commands.service",
    "problem_response": "http.responses",
    "problem_responses": "http.problems",
    "request_context": "http.request",
    "request_id": "http.request",
    "request_limits": "http.limits",
}


def _import_without_collection(name: str) -> ModuleType:
    """Import a module. Python's search for garbage would be a tenth of a start, and find none."""
    if not gc.isenabled() or gc.get_freeze_count():
        return import_module(name, __name__)
    gc.disable()
    try:
        return import_module(name, __name__)
    finally:
        # What is new becomes old, so that no search of the new goes through all of it.
        gc.freeze()
        gc.unfreeze()
        gc.enable()


if not TYPE_CHECKING:  # or a name that is not there would be right for mypy

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_without_collection(f".{_MODULES[name]}"), name)
        return value
