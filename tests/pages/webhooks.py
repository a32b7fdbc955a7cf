"""The guide's page of webhooks: the transport keeps the name of a host for TLS."""

import asyncio
import socket
import ssl
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
from chassis.ssrf import public_transport

from tests.faults.certificates import make_certificates

HOST = "hooks.example.com"


def serve_once(listener: socket.socket, context: ssl.SSLContext, heads: list[bytes]) -> None:
    for _ in range(2):
        try:
            with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                heads.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except ssl.SSLError:
            # The client has refused the certificate.
            pass


async def call_two_hosts(port: int) -> None:
    """Call the host of the certificate, then another one at the same address."""
    async with httpx2.AsyncClient(transport=public_transport(allowed=["127.0.0.0/8"])) as http:
        assert (await http.get(f"https://{HOST}:{port}/")).status_code == 200
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(f"https://other.example.com:{port}/")


def test_the_certificate_has_to_be_the_hosts_and_the_name_is_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificates(tmp_path, host=HOST, user="nobody")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate("ca")))
    resolved, getaddrinfo = [], socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        if not str(host).endswith("example.com"):
            return getaddrinfo(host, *arguments, **options)
        resolved.append(host)
        return getaddrinfo("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate("server"), made.key("server"))
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = Thread(target=serve_once, args=(listener, context, heads), daemon=True)
        server.start()
        asyncio.run(call_two_hosts(port))
        server.join(10)
    assert f"host: {HOST}:{port}".encode() in heads[0].lower()
    assert resolved == [HOST, "other.example.com"]
