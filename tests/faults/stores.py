"""Stores of secrets of other clouds, as their own clients talk to them: gRPC and HTTPS."""

import json
import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import grpc
from azure.core.credentials import AccessToken
from google.cloud.secretmanager_v1 import (
    AccessSecretVersionRequest,
    AccessSecretVersionResponse,
    ListSecretsRequest,
    ListSecretsResponse,
    Secret,
    SecretManagerServiceClient,
    SecretPayload,
)
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)

from .certificates import Certificates

SERVICE = "google.cloud.secretmanager.v1.SecretManagerService"


@contextmanager
def gcp_client(secrets: Mapping[str, str | None]) -> Iterator[SecretManagerServiceClient]:
    """Give Google's client of a server that holds secrets; one that is None may not be read."""

    def list_secrets(request: ListSecretsRequest, _: grpc.ServicerContext) -> ListSecretsResponse:
        names = [f"{request.parent}/secrets/{name}" for name in secrets]
        return ListSecretsResponse(secrets=[Secret(name=name) for name in names])

    def access(
        request: AccessSecretVersionRequest, context: grpc.ServicerContext
    ) -> AccessSecretVersionResponse:
        value = secrets[request.name.split("/")[3]]
        if value is None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")
        return AccessSecretVersionResponse(payload=SecretPayload(data=(value or "").encode()))

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            handler,
            request_deserializer=request.deserialize,
            response_serializer=response.serialize,
        )
        for name, handler, request, response in (
            ("ListSecrets", list_secrets, ListSecretsRequest, ListSecretsResponse),
            (
                "AccessSecretVersion",
                access,
                AccessSecretVersionRequest,
                AccessSecretVersionResponse,
            ),
        )
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield SecretManagerServiceClient(
                transport=SecretManagerServiceGrpcTransport(channel=channel)
            )
    finally:
        server.stop(None)


class Token:
    """A credential of a vault's client."""

    def get_token(self, *_: str, **__: object) -> AccessToken:
        """Give a token that a vault of the test takes."""
        return AccessToken("token", 2**31)


@contextmanager
def azure_vault(secrets: Mapping[str, str], certificates: Certificates) -> Iterator[str]:
    """Run a vault by HTTPS, which asks nobody for a token, and give its URL."""

    class Vault(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            base = f"https://localhost:{self.server.server_port}/secrets"  # type: ignore[attr-defined]
            name = self.path.partition("?")[0].removeprefix("/secrets").strip("/")
            if not name:
                listed = [
                    {"id": f"{base}/{one}", "attributes": {"enabled": True}} for one in secrets
                ]
                self.answer({"value": listed})
            else:
                self.answer({"id": f"{base}/{name}", "value": secrets[name.strip("/")]})

        def answer(self, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Vault)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate("server"), certificates.key("server"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
