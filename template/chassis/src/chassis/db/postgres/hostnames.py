"""Lookups of host names: a silent resolver delays neither other requests nor the process's end.

The system's lookup can't be cancelled and may take a minute. Event loops run it in a few threads,
where abandoned lookups queue up, and which the process waits for when it ends.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from ipaddress import ip_address
from ssl import SSLError
from threading import Lock, Thread
from typing import Any, TypeVar

# How long an answer is used again; a name that was given another address is noticed as fast.
ANSWER_SECONDS = 5.0

T = TypeVar("T")
# Level, option and value, as `setsockopt` takes them.
SocketOption = tuple[int, int, int]


def call_in_daemon_thread(function: Callable[[], T]) -> Future[T]:
    """Start a call that may never return, and that the end of the process does not wait for."""
    future: Future[T] = Future()
    # From here on it can't be cancelled: a task that gives up takes it from no other task.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=copy_context().run, args=(run,), daemon=True).start()
    return future


class HostNames:
    """The addresses of host names: one lookup at a time for each, shared by all that wait."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lookups: dict[str, Future[list[str]]] = {}
        self._answers: dict[str, tuple[float, list[str]]] = {}

    async def find_addresses(self, name: str) -> list[str]:
        """Return the addresses of a name, in the system's order. Raise OSError if it has none."""
        answered, addresses = self._answers.get(name, (float("-inf"), []))
        if time.monotonic() - answered < ANSWER_SECONDS:
            return addresses
        return await asyncio.wrap_future(self._join_lookup(name))

    def forget(self, name: str) -> None:
        """Drop the answer for a name: nothing takes connections at its addresses."""
        self._answers.pop(name, None)

    def _join_lookup(self, name: str) -> Future[list[str]]:
        """Return the lookup of a name that is under way, which connections share, or begin one."""
        with self._lock:
            if name not in self._lookups:
                self._lookups[name] = call_in_daemon_thread(partial(self._look_up, name))
            return self._lookups[name]

    def _look_up(self, name: str) -> list[str]:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._answers[name] = (time.monotonic(), addresses)
            return addresses
        finally:
            with self._lock:
                del self._lookups[name]


class ResolvingLoop:
    """The running event loop, but for connections: names are looked up here, and options are set.

    asyncpg connects by the loop that it is given, and TLS goes on to verify the name.
    """

    def __init__(self, names: HostNames, socket_options: Sequence[SocketOption] = ()) -> None:
        self._names = names
        self._socket_options = socket_options
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def __eq__(self, other: object) -> bool:
        # asyncpg forgets a cancellation by its task, which asyncio looks up by the loop. Python
        # 3.14 compares by identity instead: a connection keeps its finished cancellations there.
        return other is self or other is self._loop

    def __hash__(self) -> int:
        return hash(self._loop)

    async def create_connection(
        self, factory: Callable[[], Any], host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        """Connect to a host's first address that takes a connection; set the socket's options."""
        transport, protocol = await self._connect_to_address(factory, host, port, **options)
        # uvloop's own object can't set options.
        number = os.dup(transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=number) as duplicate:
            for option in self._socket_options:
                duplicate.setsockopt(*option)
        return transport, protocol

    async def _connect_to_address(
        self, factory: Callable[[], Any], host: Any, port: Any, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        """Connect to the first address of a host that takes a connection.

        Raise what the first of them failed with if none does, SSLError at once.
        """
        if host is None or is_address(host):
            return await self._loop.create_connection(factory, host, port, **options)
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        failure: OSError | None = None
        for address in await self._names.find_addresses(host):
            try:
                return await self._loop.create_connection(factory, address, port, **options)
            except SSLError:
                raise
            except OSError as error:
                failure = failure or error
        self._names.forget(host)
        raise failure or OSError(f"{host} has no address")


def is_address(host: str) -> bool:
    """Return whether there is nothing to look up: an address, or the folder of a socket."""
    if host.startswith("/"):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
