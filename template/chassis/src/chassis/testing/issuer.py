"""An issuer of access tokens, for tests: a real HTTP server with discovery and keys."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest

AUDIENCE = "service-under-test"
DISCOVERY_PATH, KEYS_PATH = "/.well-known/openid-configuration", "/keys"


class SigningKey:
    """A key for ES256, made anew: `jwk` is its public half, and `sign` makes tokens."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
        from jwt.algorithms import ECAlgorithm

        self.private = generate_private_key(SECP256R1())
        self.id = uuid4().hex
        public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.jwk: dict[str, Any] = public | {"kid": self.id, "alg": "ES256", "use": "sig"}

    def sign(self, claims: Mapping[str, Any], headers: Mapping[str, Any] | None = None) -> str:
        """Return a token with these claims; headers are added to its own, None removes one."""
        import jwt

        named = {"kid": self.id, "typ": "at+jwt"} | dict(headers or {})
        kept = {name: value for name, value in named.items() if value is not None}
        return jwt.encode(dict(claims), self.private, "ES256", headers=kept)


class TokenIssuer:
    """An issuer on 127.0.0.1; `settings` are those of a service that takes its tokens."""

    def __init__(self) -> None:
        self.key = SigningKey()
        # What the server answers, by path, how late, and the paths that were asked for.
        self.documents: dict[str, Any] = {}
        self.requests: list[str] = []
        self.delay_seconds = 0.0
        self._port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self._port}"
        self.documents[DISCOVERY_PATH] = {"issuer": self.url, "jwks_uri": self.url + KEYS_PATH}
        self.documents[KEYS_PATH] = {"keys": [self.key.jwk]}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings to change: `settings.model_copy(update=token_issuer.settings)`."""
        # The kit's callers have keys in a file.
        return {"auth_issuer": self.url, "auth_audience": (AUDIENCE,), "auth_jwks_url": None}

    def token(
        self,
        subject: str,
        *,
        scopes: Iterable[str] = (),
        roles: Iterable[str] = (),
        tenant: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """Return a token that counts for five minutes; other claims are added, None removes one."""
        now = int(time.time())
        standard = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 300}
        own = {"scope": " ".join(scopes), "roles": list(roles), "tenant": tenant}
        everything = standard | own | claims
        kept = {name: value for name, value in everything.items() if value is not None}
        return self.key.sign(kept, headers)

    def rotate(self) -> None:
        """Sign with a new key from now on; the one before is gone from the issuer's keys."""
        self.key = SigningKey()
        self.documents[KEYS_PATH] = {"keys": [self.key.jwk]}

    def start(self) -> None:
        """Answer again, at the same address."""
        self._server = _Server(("127.0.0.1", self._port), _create_handler(self))
        self._port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be down: connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def token_issuer() -> Iterator[TokenIssuer]:
    """Yield an issuer of access tokens, a real HTTP server: `token()`, `rotate()`, `stop()`."""
    issuer = TokenIssuer()
    yield issuer
    issuer.stop()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing about a client that left before its answer."""


def _create_handler(issuer: TokenIssuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests.append(self.path)
            time.sleep(issuer.delay_seconds)
            document = issuer.documents.get(self.path)
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            """Write nothing beside the output of the tests."""

    return Handler
