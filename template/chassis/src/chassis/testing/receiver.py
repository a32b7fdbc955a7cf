"""Another service, for tests: a real HTTP server that keeps what it is sent."""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from starlette.datastructures import Headers


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it came over the wire; `path` has the query, too."""

    method: str
    path: str
    headers: Headers
    body: bytes

    def json(self) -> Any:
        """Read the body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    delay_seconds: float


class Receiver:
    """A server on 127.0.0.1: `requests` are those that came, each answered with 200 by default."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[ReceivedRequest] = []
        self._answers: deque[_Answer] = deque()

    def answer_next(
        self,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        delay_seconds: float = 0,
    ) -> None:
        """Answer the next request so; several calls are for as many requests, in their order."""
        self._answers.append(_Answer(status, headers or {}, body, delay_seconds))

    def _receive(self, request: ReceivedRequest) -> _Answer:
        self.requests.append(request)
        return self._answers.popleft() if self._answers else _Answer(200, {}, b"", 0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Yield a real HTTP server that keeps its requests, for what the service calls: `url`."""
    server = _Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = _create_handler(receiver)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error, but for a client that has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _create_handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # A connection serves several requests, as those of real servers do.
        protocol_version = "HTTP/1.1"

        def receive_request(self) -> None:
            headers = Headers(
                raw=[
                    (name.lower().encode("latin-1"), value.encode("latin-1"))
                    for name, value in self.headers.items()
                ]
            )
            request = ReceivedRequest(self.command, self.path, headers, self.read_body())
            answer = receiver._receive(request)
            time.sleep(answer.delay_seconds)
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        do_DELETE = do_GET = do_HEAD = do_PATCH = do_POST = do_PUT = receive_request  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Write nothing beside the output of the tests."""

    return Handler
