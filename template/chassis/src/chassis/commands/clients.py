"""The connections of clients: how many there may be, and how long each may ask for nothing.

uvicorn limits neither. This module uses asyncio's public interface alone: a protocol between the
event loop and uvicorn's, on the sockets that the service listens on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from importlib.util import find_spec
from socket import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or not find_spec("uvloop"):
    Loop = getattr(asyncio, "ProactorEventLoop", asyncio.SelectorEventLoop)
else:
    from uvloop import Loop

logger = logging.getLogger(__name__)

# A connection that asked for nothing this long may be closed to make room for another.
IDLE_SECONDS = 1.0
REPORT_SECONDS = 10.0
# Files for other things than clients: the database's connections, logs, modules.
RESERVED_FILES = 64

_CURRENT_CLIENT: ContextVar["Client | None"] = ContextVar("chassis_client", default=None)


def _write_answer(status: str, detail: str) -> bytes:
    body = (
        f'{{"type":"about:blank","title":"{status[4:]}","status":{status[:3]},"detail":"{detail}"}}'
    )
    return (
        f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


_HEADERS_TOO_LATE = _write_answer("408 Request Timeout", "The headers took too long to arrive.")
_TOO_MANY_CONNECTIONS = _write_answer(
    "503 Service Unavailable", "The service has too many connections."
)


def note_request() -> None:
    """Note that the client of the current task has sent the headers of a request."""
    if (client := _CURRENT_CLIENT.get()) is not None:
        client.begin_request()


def limit_connections(wanted: int) -> int:
    """Return how many connections there may be: fewer than the files that a process may open."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
    except ImportError:
        return wanted
    files, _ = getrlimit(RLIMIT_NOFILE)
    if files == RLIM_INFINITY:
        return wanted
    return min(wanted, files - min(RESERVED_FILES, files // 2))


class Clients:
    """The open connections of this process, the oldest first."""

    def __init__(self, *, limit: int, header_seconds: float) -> None:
        self._limit = limit
        self._header_seconds = header_seconds
        self._open: dict[Client, None] = {}
        self._late = self._made_room = self._refused = 0
        self._reported = float("-inf")

    def add(self, client: "Client") -> bool:
        """Add a connection. Return whether there is room for it."""
        if len(self._open) >= self._limit and not self._close_idle_client():
            self._refused += 1
            return False
        self._open[client] = None
        return True

    def remove(self, client: "Client") -> None:
        """Forget a connection that is closed."""
        self._open.pop(client, None)

    async def watch(self) -> None:
        """Close connections without a request for too long, and report what was closed."""
        while True:
            await asyncio.sleep(IDLE_SECONDS)
            for client in list(self._open):
                client.idle_seconds = 0.0 if client.is_busy else client.idle_seconds + IDLE_SECONDS
                is_late = client.idle_seconds > self._header_seconds > 0
                if is_late and not client.is_kept_alive:
                    self._late += 1
                    client.close()
            if time.monotonic() - self._reported > REPORT_SECONDS:
                self._report_closed()

    def _close_idle_client(self) -> bool:
        """Make room: close an idle connection, best one that has sent no request so far.

        Return whether one was idle.
        """
        # Seen without a request, at the last look.
        idle = [client for client in self._open if client.idle_seconds > 0]
        if not idle:
            return False
        unused = (client for client in idle if not client.has_asked)
        self._made_room += 1
        next(unused, idle[0]).close()
        return True

    def _report_closed(self) -> None:
        if not (self._late or self._made_room or self._refused):
            return
        level = logging.WARNING if self._made_room or self._refused else logging.INFO
        logger.log(
            level,
            "%d of %d connections are open; closed without the headers of a request: %d after "
            "%g s (APP_SERVER_HEADER_TIMEOUT_SECONDS), %d to make room; refused: %d "
            "(APP_SERVER_MAX_CONNECTIONS, and fewer than the files that may be open)",
            *(len(self._open), self._limit, self._late, self._header_seconds),
            *(self._made_room, self._refused),
        )
        self._late = self._made_room = self._refused = 0
        self._reported = time.monotonic()


class Client(asyncio.Protocol):
    """One connection, which passes everything on to the protocol of the server."""

    def __init__(self, clients: Clients, create_protocol: Callable[[], asyncio.Protocol]) -> None:
        self.protocol = asyncio.Protocol()
        self.idle_seconds = 0.0
        self.has_asked = False
        self._clients = clients
        self._create_protocol = create_protocol
        self._transport: Any = None
        self._below: Transport | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_heard = False

    @property
    def is_busy(self) -> bool:
        """Whether a request of this client is being served."""
        return self._task is not None and not self._task.done()

    @property
    def is_kept_alive(self) -> bool:
        """Whether it waits for a next request, of which nothing is there: uvicorn ends the wait."""
        return self.has_asked and not self._is_heard

    def begin_request(self) -> None:
        """Note that all headers of a request are there."""
        self._task = asyncio.current_task()
        self.idle_seconds = 0.0
        self.has_asked = True
        self._is_heard = False
        if self._below is not None:
            self._below.begin_answer()

    def close(self) -> None:
        """Close the connection, after an answer if headers had begun to arrive."""
        self._clients.remove(self)
        if self._is_heard and not self._transport.is_closing():
            self._transport.write(_HEADERS_TOO_LATE)
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept a connection, or refuse it if there are too many."""
        self._transport = transport
        if self._clients.add(self):
            self.protocol = self._create_protocol()
            below: Any = Transport(self, self._transport)
            self._below = below
            self.protocol.connection_made(below)
        else:
            self._transport.write(_TOO_MANY_CONNECTIONS)
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Pass data on; the task that serves a request of it knows its client by the context."""
        if self.is_kept_alive:
            self.idle_seconds = 0.0
        # What comes while a request is served is its body, as a rule.
        self._is_heard = not self.is_busy
        _CURRENT_CLIENT.set(self)
        self.protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        return self.protocol.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client reads too slowly."""
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client has read."""
        self.protocol.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass on that the connection is closed."""
        self._clients.remove(self)
        self.protocol.connection_lost(error)


class Transport:
    """A connection's transport, which sends an answer's headers and its body at once.

    uvicorn writes them one after the other: a second call of the system, and for its client a
    second packet. What is written after the end is ignored: uvicorn closes a connection under a
    running request if garbage follows that, and then writes the answer. asyncio would ignore it,
    uvloop raises: a traceback that any client can cause.
    """

    def __init__(self, client: Client, transport: asyncio.Transport) -> None:
        self._client = client
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._waits_for_headers = False
        self._headers = b""

    def begin_answer(self) -> None:
        """Hold back what is written first, until more follows or the loop turns."""
        self._waits_for_headers = True

    def write(self, data: bytes) -> None:
        """Send bytes, if there is anybody to send them to."""
        if self._waits_for_headers:
            self._waits_for_headers = False
            self.flush()
            self._headers = data
            self._call_soon(self.flush)
        elif self._headers:
            headers, self._headers = self._headers, b""
            if not self._transport.is_closing():
                self._transport.writelines((headers, data))
        elif not self._transport.is_closing():
            self._transport.write(data)

    def flush(self) -> None:
        """Send what is held back."""
        if self._headers:
            if not self._transport.is_closing():
                self._transport.write(self._headers)
            self._headers = b""

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._transport.close()

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Hand the connection to another protocol, as for a websocket."""
        self._client.protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ServingLoop(Loop):  # type: ignore[misc, valid-type]
    """An event loop that knows the clients of the sockets that a service listens on."""

    def __init__(self) -> None:
        super().__init__()
        self._sockets: Sequence[socket] = ()
        self._clients: Clients | None = None

    def guard(self, sockets: Sequence[socket], clients: Clients) -> None:
        """Let the connections to these sockets be limited."""
        self._sockets, self._clients = sockets, clients

    async def create_server(
        self, create_protocol: Callable[[], asyncio.Protocol], *arguments: Any, **options: Any
    ) -> Any:
        """Begin to listen."""
        if self._clients is not None and options.get("sock") in self._sockets:
            create_protocol = partial(Client, self._clients, create_protocol)
        return await super().create_server(create_protocol, *arguments, **options)
