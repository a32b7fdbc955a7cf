"""HEAD on what platforms ask: as GET, without a body."""

import re
import socket

from tests.postgres import HOST, free_port

from .attacked import Attacked

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def test_head_is_answered_as_get_without_a_body(attacked: Attacked) -> None:
    port = free_port()
    with attacked.serving() as running:
        for path in ("/livez", "/readyz", "/metrics"):
            check_head(running.port, path)
    with attacked.serving(APP_METRICS_PORT=str(port)):
        check_head(port, "/metrics")


def check_head(port: int, path: str) -> None:
    """Ask by both methods, and compare."""
    head, rest = ask(port, "HEAD", path)
    get, body = ask(port, "GET", path)
    assert b" 200 " in head.splitlines()[0]
    assert rest == b""
    assert body
    assert LENGTH.search(head)
    # The metrics have changed meanwhile.
    assert path == "/metrics" or LENGTH.findall(head) == LENGTH.findall(get)


def ask(port: int, method: str, path: str) -> tuple[bytes, bytes]:
    """Return the head of an answer, and all that follows it."""
    request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection((HOST, port), timeout=30) as one:
        one.sendall(request.encode())
        answer = b"".join(iter(lambda: one.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body
