"""The issuer's keys: fetched seldom, kept while the issuer is down, and never a wrong one."""

import asyncio
import gc
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from time import perf_counter, thread_time
from typing import Any

import pytest

from chassis import ChassisSettings
from chassis.testing import TokenIssuer, eventually

pytest.importorskip("jwt", reason="needs the extra `auth`")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from chassis.auth import documents, keys
from chassis.auth.tokens import (
    InvalidTokenError,
    KeysUnavailableError,
    TokenVerifier,
    open_token_verifier,
)
from chassis.testing.issuer import DISCOVERY_PATH, KEYS_PATH, SigningKey

HOUR = 3600.0
Open = Callable[..., AbstractAsyncContextManager[TokenVerifier]]


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_verifier(token_issuer: TokenIssuer, clock: Clock) -> Open:
    """Return what opens a verifier whose clock the test moves."""

    @asynccontextmanager
    async def open_it(**changes: Any) -> AsyncIterator[TokenVerifier]:
        settings = ChassisSettings(**token_issuer.settings | changes)
        async with open_token_verifier(settings, clock=clock) as verifier:
            yield verifier

    return open_it


def with_unknown_key(issuer: TokenIssuer) -> str:
    """Return a token of a key that the issuer does not have."""
    return issuer.token("alice", headers={"kid": SigningKey().id})


async def test_a_token_of_the_issuer_is_read(
    token_issuer: TokenIssuer, open_verifier: Open
) -> None:
    async with open_verifier() as verifier:
        claims = await verifier.verify(token_issuer.token("alice", scopes=["items:write"]))
    assert (claims["sub"], claims["scope"]) == ("alice", "items:write")
    assert token_issuer.requests == [DISCOVERY_PATH, KEYS_PATH]


async def test_a_thousand_unknown_keys_cause_one_fetch_and_block_nothing(
    token_issuer: TokenIssuer, open_verifier: Open, clock: Clock
) -> None:
    async with open_verifier() as verifier:
        await verifier.verify(token_issuer.token("alice"))
        clock.move(keys.COOLDOWN_SECONDS)
        token_issuer.requests.clear()
        tokens = [with_unknown_key(token_issuer) for _ in range(1000)]
        token_issuer.delay_seconds = 2.0

        async def send_requests(first: int) -> None:
            for token in tokens[first::50]:
                with pytest.raises(InvalidTokenError, match="a key that the issuer does not have"):
                    await verifier.verify(token)
                await asyncio.sleep(0)

        async with watched_loop() as lags:
            await asyncio.gather(*map(send_requests, range(50)))
        assert token_issuer.requests == [KEYS_PATH]
    assert max(computed for computed, _ in lags) < 0.02
    # Beside the load of others on the machine; a fetch that blocks would be two seconds.
    assert max(late for _, late in lags) < 1.5


@pytest.mark.parametrize("document", [{"keys": []}, {"keys": None}, {}, [], None, 0])
async def test_unknown_keys_of_an_issuer_without_any_cause_one_fetch_too(
    token_issuer: TokenIssuer, open_verifier: Open, clock: Clock, document: Any
) -> None:
    token_issuer.documents[KEYS_PATH] = document
    async with open_verifier() as verifier:
        tokens = [with_unknown_key(token_issuer) for _ in range(100)]
        errors = await asyncio.gather(*map(verifier.verify, tokens), return_exceptions=True)
        assert {type(error) for error in errors} == {KeysUnavailableError}
        assert token_issuer.requests.count(KEYS_PATH) == 1
        clock.move(keys.COOLDOWN_SECONDS)
        await asyncio.gather(*map(verifier.verify, tokens), return_exceptions=True)
    assert token_issuer.requests.count(KEYS_PATH) == 2


async def test_a_new_key_counts_when_the_cooldown_is_over_and_the_old_one_no_more(
    token_issuer: TokenIssuer, open_verifier: Open, clock: Clock
) -> None:
    async with open_verifier() as verifier:
        old = token_issuer.token("alice")
        await verifier.verify(old)
        token_issuer.rotate()
        new = token_issuer.token("alice")
        with pytest.raises(InvalidTokenError):
            await verifier.verify(new)
        await verifier.verify(old)
        clock.move(keys.COOLDOWN_SECONDS)
        assert (await verifier.verify(new))["sub"] == "alice"
        # It was remembered, with the key that is gone.
        with pytest.raises(InvalidTokenError):
            await verifier.verify(old)


async def test_a_removed_key_is_gone_at_the_next_fetch_in_the_background(
    token_issuer: TokenIssuer, open_verifier: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.01)
    async with open_verifier() as verifier:
        old = token_issuer.token("alice")
        await verifier.verify(old)
        token_issuer.rotate()
        clock.move(keys.COOLDOWN_SECONDS)
        await eventually(lambda: token_issuer.requests.count(KEYS_PATH) > 1)
        await asyncio.sleep(0.05)
        with pytest.raises(InvalidTokenError):
            await verifier.verify(old)


async def test_known_keys_go_on_while_the_issuer_is_down(
    token_issuer: TokenIssuer,
    open_verifier: Open,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_verifier() as verifier:
        await verifier.verify(token_issuer.token("alice"))
        unknown = with_unknown_key(token_issuer)
        token_issuer.stop()
        clock.move(HOUR)
        assert (await verifier.verify(token_issuer.token("bob")))["sub"] == "bob"
        with pytest.raises(KeysUnavailableError, match=r"keys are not known: .*Connect call"):
            await verifier.verify(unknown)
        [line] = caplog.messages
        assert line.startswith("the keys of the issuer can't be fetched: http://127.0.0.1:")
        assert (await verifier.verify(token_issuer.token("carol")))["sub"] == "carol"
        clock.move(keys.LONGEST_OUTAGE_SECONDS)
        with pytest.raises(KeysUnavailableError):
            await verifier.verify(token_issuer.token("bob"))
        token_issuer.start()
        clock.move(keys.COOLDOWN_SECONDS)
        assert (await verifier.verify(token_issuer.token("bob")))["sub"] == "bob"


async def test_a_remembered_token_counts_no_longer_than_its_key(
    token_issuer: TokenIssuer, open_verifier: Open, clock: Clock
) -> None:
    async with open_verifier() as verifier:
        token = token_issuer.token("alice")
        await verifier.verify(token)
        token_issuer.stop()
        clock.move(keys.LONGEST_OUTAGE_SECONDS + 1)
        with pytest.raises(KeysUnavailableError):
            await verifier.verify(token)
    token_issuer.start()


async def test_an_issuer_that_starts_later_is_no_error_of_the_start(
    token_issuer: TokenIssuer, open_verifier: Open, clock: Clock
) -> None:
    token_issuer.stop()
    async with open_verifier() as verifier:
        with pytest.raises(KeysUnavailableError) as caught:
            await verifier.verify(token_issuer.token("alice"))
        assert caught.value.retry_after_seconds == keys.COOLDOWN_SECONDS
        token_issuer.start()
        clock.move(keys.COOLDOWN_SECONDS)
        assert (await verifier.verify(token_issuer.token("alice")))["sub"] == "alice"


@pytest.mark.parametrize("ending", ["", "/"])
async def test_an_issuer_that_calls_itself_otherwise_is_named_with_its_slash(
    token_issuer: TokenIssuer, open_verifier: Open, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    document = token_issuer.documents[DISCOVERY_PATH]
    token_issuer.documents[DISCOVERY_PATH] = document | {"issuer": token_issuer.url + ending}
    async with open_verifier(auth_issuer=token_issuer.url + "/") as verifier:
        token = token_issuer.token("alice", iss=token_issuer.url + ending)
        if ending:
            await verifier.verify(token)
            return
        with pytest.raises(KeysUnavailableError):
            await verifier.verify(token)
    assert "set it exactly so (the difference is the slash at the end)" in caplog.messages[0]


@pytest.mark.parametrize(
    "url", ["file:///etc/hosts", "http://example.com/keys", "ftp://127.0.0.1/", "/keys", None, 7]
)
async def test_discovery_leads_to_no_file_and_to_nothing_without_tls(
    token_issuer: TokenIssuer, open_verifier: Open, caplog: pytest.LogCaptureFixture, url: Any
) -> None:
    token_issuer.documents[DISCOVERY_PATH]["jwks_uri"] = url
    async with open_verifier() as verifier:
        with pytest.raises(KeysUnavailableError):
            await verifier.verify(token_issuer.token("alice"))
    assert "jwks_uri" in caplog.messages[0]


async def test_keys_may_be_in_a_file_that_is_named(
    token_issuer: TokenIssuer, open_verifier: Open, tmp_path: Path
) -> None:
    file = tmp_path / "the keys.json"
    file.write_text(json.dumps(token_issuer.documents[KEYS_PATH]))
    async with open_verifier(auth_jwks_url=file.as_uri()) as verifier:
        assert (await verifier.verify(token_issuer.token("alice")))["sub"] == "alice"
    assert token_issuer.requests == []


async def test_an_address_of_keys_needs_no_discovery(
    token_issuer: TokenIssuer, open_verifier: Open
) -> None:
    async with open_verifier(auth_jwks_url=token_issuer.url + KEYS_PATH) as verifier:
        await verifier.verify(token_issuer.token("alice"))
    assert token_issuer.requests == [KEYS_PATH]


def http(head: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {head}\r\n\r\n".encode() + body


GOOD = json.dumps({"keys": [SigningKey().jwk]}).encode()
BROKEN: dict[str, tuple[list[bytes], str]] = {
    "slow body": ([http("200 OK\r\nContent-Length: 9")] + [b"x"] * 8, "no whole answer in"),
    "slow headers": ([b"HTTP/1.1 200 OK\r\n"] + [b"A: b\r\n"] * 8, "no whole answer in"),
    "nothing": ([], "the answer was cut off"),
    "cut off": ([http("200 OK\r\nContent-Length: 900", b"{")], "the answer was cut off"),
    "too large": ([http("200 OK", b" " * 600_000)], "is larger than 512 KiB"),
    "large headers": ([b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 99_000], "is larger than 512 KiB"),
    "no HTTP": ([b"SSH-2.0-OpenSSH_9.2\r\n" * 4], "HTTP"),
    "not found": ([http("404 Not Found", GOOD)], "answered with 404"),
    "redirect": ([http("302 Found\r\nLocation: file:///etc/hosts", GOOD)], "answered with 302"),
    "upgrade": ([http("101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade")], ""),
    "no JSON": ([http("200 OK", b"<html>")], "is no JSON object"),
    "deep JSON": ([http("200 OK", b"[" * 100_000)], "is no JSON object"),
    "other bytes": ([http("200 OK", b"\xff\xfe\x00")], "is no JSON object"),
    "no key set": ([http("200 OK", b'{"keys": [[], null, {}, {"kty": []}]}')], "has no key for"),
}


@contextmanager
def raw_server(pieces: list[bytes]) -> Iterator[str]:
    """Run a server that answers each connection with these bytes, the later ones slowly."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    try:
                        for piece in pieces:
                            connection.sendall(piece)
                            if len(pieces) > 1:
                                connection.settimeout(0.1)
                                with pytest.raises(TimeoutError):
                                    connection.recv(1)
                    except (OSError, pytest.fail.Exception):
                        pass

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/keys"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("what", BROKEN)
async def test_an_answer_that_is_no_key_set_is_a_line_in_the_log(
    token_issuer: TokenIssuer,
    open_verifier: Open,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    monkeypatch.setattr(documents, "LONGEST_SECONDS", 0.3)
    pieces, reason = BROKEN[what]
    with raw_server(pieces) as url:
        async with open_verifier(auth_jwks_url=url) as verifier:
            with pytest.raises(KeysUnavailableError):
                await verifier.verify(token_issuer.token("alice"))
    line = next(line for line in caplog.messages if "can't be fetched" in line)
    assert reason in line
    assert len(line) < 300


@contextmanager
def tls_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """Serve a set of keys over TLS; yield its URL and the file of its certificate."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    file, key_file = folder / "certificate.pem", folder / "key.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file, key_file)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listening.accept()
                    with suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
                        secure.recv(65536)
                        secure.sendall(http(f"200 OK\r\nContent-Length: {len(GOOD)}", GOOD))

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://localhost:{listening.getsockname()[1]}/keys", file
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


async def test_keys_over_tls_come_from_who_has_a_certificate_that_is_trusted(
    token_issuer: TokenIssuer,
    open_verifier: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = token_issuer.token("alice")
    with tls_server(tmp_path) as (url, file):
        async with open_verifier(auth_jwks_url=url) as verifier:
            with pytest.raises(KeysUnavailableError):
                await verifier.verify(token)
        assert "certificate verify failed" in caplog.messages[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        async with open_verifier(auth_jwks_url=url) as verifier:
            # They were fetched, and the token's is not among them.
            with pytest.raises(InvalidTokenError):
                await verifier.verify(token)


async def test_keys_that_cant_be_used_are_left_out(
    token_issuer: TokenIssuer, open_verifier: Open, caplog: pytest.LogCaptureFixture
) -> None:
    key = token_issuer.key.jwk
    others = [
        *({**SigningKey().jwk, "use": "enc"}, {**SigningKey().jwk, "crv": "P-384"}),
        *({**SigningKey().jwk, "x": "AAAA"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}),
        {"kty": "RSA", "n": "uw", "e": "AQAB", "kid": "short"},
        *({"kty": "AKP", "kid": "of next year", "alg": "ML-DSA-65"}, "no key"),
    ]
    token_issuer.documents[KEYS_PATH] = {"keys": [*others, key]}
    async with open_verifier() as verifier:
        assert (await verifier.verify(token_issuer.token("alice")))["sub"] == "alice"
        # Without a key id there is only one that it can be.
        assert await verifier.verify(token_issuer.token("alice", headers={"kid": None}))
        for other in others[:3]:
            assert isinstance(other, dict)
            with pytest.raises(InvalidTokenError):
                await verifier.verify(token_issuer.token("alice", headers={"kid": other["kid"]}))
    assert "a key of the issuer can't be used" in caplog.messages[0]


async def test_a_token_without_a_key_id_is_refused_where_it_may_be_of_several(
    token_issuer: TokenIssuer, open_verifier: Open
) -> None:
    token_issuer.documents[KEYS_PATH]["keys"].append(SigningKey().jwk)
    async with open_verifier() as verifier:
        assert await verifier.verify(token_issuer.token("alice"))
        with pytest.raises(InvalidTokenError, match="does not name its key"):
            await verifier.verify(token_issuer.token("alice", headers={"kid": None}))


@asynccontextmanager
async def watched_loop() -> AsyncIterator[list[tuple[float, float]]]:
    """Collect how long the event loop computes before it looks again, and by how much it is late.

    The first is its own thread's time, which others on the machine don't lengthen.
    """
    lags: list[tuple[float, float]] = []

    async def watch() -> None:
        while True:
            computed, before = thread_time(), perf_counter()
            await asyncio.sleep(0.001)
            lags.append((thread_time() - computed, perf_counter() - before - 0.001))

    # What other tests left in memory is not looked through for garbage.
    gc.collect()
    gc.freeze()
    task = asyncio.create_task(watch())
    yield lags
    task.cancel()
    gc.unfreeze()
