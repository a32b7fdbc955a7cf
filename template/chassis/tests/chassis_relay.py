"""A TCP port in front of a PostgreSQL server, which can fail in the ways that networks do."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from chassis.db.address.urls import DatabaseTarget


class Relay:
    """Pass bytes between a port of 127.0.0.1 and a server."""

    def __init__(self, target: DatabaseTarget) -> None:
        self._server = target.hosts[0]
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self.accepted = 0
        self.port = 0

    def start(self, *, deaf: bool = False) -> None:
        """Take connections, after a stop on the same port again; deaf, answer none of them."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        if not deaf:
            Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def stop(self) -> None:
        """Cut every connection and refuse new ones, as a server that has gone does."""
        for one in (self._listener, *self._open):
            if one is not None:
                _close(one)
        self._listener = None
        self._open.clear()

    def silence(self) -> None:
        """Swallow what the open connections send, as a firewall that forgot them does."""
        self._silent.update(self._open)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.accepted += 1
                server = self._connect()
                self._open += (client, server)
                for source, target in ((client, server), (server, client)):
                    Thread(target=self._pass, args=[source, target], daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._server
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while received := source.recv(65536):
                if source not in self._silent:
                    target.sendall(received)
        _close(source)
        _close(target)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def relayed(target: DatabaseTarget) -> Iterator[Relay]:
    """Put a relay in front of a database's server."""
    relay = Relay(target)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()
