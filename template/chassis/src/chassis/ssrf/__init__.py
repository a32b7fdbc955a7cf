"""Calls to URLs that others chose, without reaching what only this network reaches (SSRF)."""

from typing import TYPE_CHECKING

from .addresses import Networks, PrivateAddressError, resolve_public_address

if TYPE_CHECKING:
    import httpx2

__all__ = ["Networks", "PrivateAddressError", "public_transport", "resolve_public_address"]


def public_transport(*, allowed: Networks = ()) -> "httpx2.AsyncHTTPTransport":
    """Return the transport of an `httpx2.AsyncClient` that connects to public addresses alone.

    And to those in one of the `allowed` networks, such as `10.1.0.0/16`. A URL that can't be called
    is an `httpx2.ConnectError`, one of a private address a PrivateAddressError too.
    """
    try:
        from .transport import PublicTransport
    except ImportError as error:
        raise ImportError("public_transport needs httpx2: uv add httpx2") from error
    return PublicTransport(allowed)
