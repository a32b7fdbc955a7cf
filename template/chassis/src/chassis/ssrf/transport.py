"""The transport of a client that calls what others chose. Imported by who has httpx2."""

import asyncio
import ssl
from functools import cache
from ipaddress import ip_network

import httpx2

from .addresses import Networks, PrivateAddressError, resolve_public_address


class PrivateConnectError(httpx2.ConnectError, PrivateAddressError):
    """A call was not made: the host has an address that is not public."""


class PublicTransport(httpx2.AsyncHTTPTransport):
    """Connect to the public address of a host; the certificate must still be the host's."""

    def __init__(self, allowed: Networks) -> None:
        # No connection is kept: one of another host at the same address would have its certificate.
        limits = httpx2.Limits(max_keepalive_connections=0)
        super().__init__(verify=_tls_context(), limits=limits)
        self._allowed = tuple(allowed)
        for network in self._allowed:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(
                    f"public_transport(allowed=…): {error}: 10.1.0.0/16 is a network"
                ) from None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request to the address that was looked at."""
        host = request.url.raw_host.decode("ascii")
        if request.url.scheme not in ("http", "https"):
            raise httpx2.UnsupportedProtocol("a URL to be called begins with http:// or https://")
        limits = request.extensions.get("timeout", {})
        try:
            async with asyncio.timeout(limits.get("connect")):
                address = await resolve_public_address(host, allowed=self._allowed)
        except PrivateAddressError as error:
            raise PrivateConnectError(str(error)) from None
        except TimeoutError:
            raise httpx2.ConnectTimeout("the host's name was not resolved in time") from None
        # A name that can't be one is a ValueError.
        except (OSError, ValueError) as error:
            raise httpx2.ConnectError(f"the host has no address: {error}") from error
        return await super().handle_async_request(
            # The client's own stays as it is: what a redirect to a path is relative to.
            httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
        )


@cache
def _tls_context() -> ssl.SSLContext:
    """Return what verifies certificates: to read the authorities takes 20 ms."""
    return httpx2.create_ssl_context()
