"""Passwords that change: what fetches one for each new connection."""

from collections.abc import Callable
from pkgutil import resolve_name

from ..errors import DatabaseSettingsError, DatabaseUnavailableError

FetchPassword = Callable[[], str]

_VARIABLE = "APP_DATABASE_PASSWORD_PROVIDER"


def load_password_provider(name: str, host: str, port: int, user: str) -> FetchPassword:
    """Return what calls the service's function `module:function` for a password of a host."""
    try:
        provider = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DatabaseSettingsError(
            f"{_VARIABLE}: {name} can't be imported; name a module on the path and a function in "
            "it, module:function"
        ) from error
    if not callable(provider):
        raise DatabaseSettingsError(f"{_VARIABLE}: {name} is not a function")

    def fetch_password() -> str:
        try:
            password = provider(host, port, user)
        except Exception as error:
            raise DatabaseUnavailableError(
                f"{_VARIABLE}: {name} raised {type(error).__name__}"
            ) from error
        if not isinstance(password, str) or not password:
            raise DatabaseSettingsError(
                f"{_VARIABLE}: {name} must return a string that is not empty; "
                "it is a plain function of host, port and user"
            )
        return password

    return fetch_password
