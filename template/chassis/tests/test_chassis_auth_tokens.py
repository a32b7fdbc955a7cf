"""Access tokens: those that count, those that don't, and what is remembered of them."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from chassis import ChassisSettings
from chassis.testing import TokenIssuer

pytest.importorskip("jwt", reason="needs the extra `auth`")

import jwt
from chassis_forged_tokens import EVIL, FORGED, MARK, SUBJECT
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from chassis.auth import tokens
from chassis.auth.tokens import InvalidTokenError, TokenVerifier, open_token_verifier
from chassis.testing.issuer import AUDIENCE, DISCOVERY_PATH, KEYS_PATH

Open = Callable[..., AbstractAsyncContextManager[TokenVerifier]]


@pytest.fixture
def open_verifier(token_issuer: TokenIssuer) -> Open:
    """Return what opens a verifier with other settings."""

    @asynccontextmanager
    async def open_it(**changes: Any) -> AsyncIterator[TokenVerifier]:
        async with open_token_verifier(
            ChassisSettings(**token_issuer.settings | changes)
        ) as verifier:
            yield verifier

    return open_it


@pytest.mark.parametrize("what", FORGED)
async def test_a_token_that_is_forged_or_broken_is_refused_with_its_reason(
    token_issuer: TokenIssuer, open_verifier: Open, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    token = FORGED[what].make(token_issuer)
    async with open_verifier() as verifier:
        await verifier.verify(token_issuer.token("alice"))
        for _ in range(2):
            with pytest.raises(InvalidTokenError) as caught:
                await verifier.verify(token)
    assert FORGED[what].reason in str(caught.value)
    # Nobody else was asked, whatever the token points at.
    assert token_issuer.requests == [DISCOVERY_PATH, KEYS_PATH]
    texts = [str(caught.value), caught.value.description, *caplog.messages]
    parts = [part for part in (*token.split("."), SUBJECT, MARK, EVIL, "evil") if len(part) > 3]
    assert [part for part in parts for text in texts if part in text] == []
    assert caught.value.description.startswith("The access token ")


def test_there_are_tokens_of_each_kind() -> None:
    assert len(FORGED) > 70


@pytest.mark.parametrize(
    ("claims", "times"),
    [
        ({"aud": [AUDIENCE]}, {}),
        ({"aud": ["another", AUDIENCE]}, {}),
        ({"iat": None}, {}),
        ({"exp": 10**18}, {}),
        ({"subject": "caf\u00e9 \U0001f511"}, {}),
        ({}, {"exp": 300.5}),
        # The leeway is 30 seconds.
        ({}, {"exp": -15}),
        ({}, {"iat": 25, "nbf": 25}),
    ],
)
async def test_a_token_that_counts_is_read(
    token_issuer: TokenIssuer, open_verifier: Open, claims: dict[str, Any], times: dict[str, float]
) -> None:
    async with open_verifier() as verifier:
        await verifier.verify(token_issuer.token("alice"))
        named = {"subject": "alice"} | claims
        named |= {name: time.time() + seconds for name, seconds in times.items()}
        found = await verifier.verify(token_issuer.token(**named))
    assert found["sub"] == named["subject"]


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", None])
async def test_the_type_of_an_access_token_counts_and_none_does(
    token_issuer: TokenIssuer, open_verifier: Open, typ: str | None
) -> None:
    async with open_verifier() as verifier:
        assert await verifier.verify(token_issuer.token("alice", headers={"typ": typ}))


@pytest.mark.parametrize(("bits", "counts"), [(2048, True), (1024, False)])
@pytest.mark.parametrize("algorithm", ["RS256", "PS384"])
async def test_a_key_of_rsa_signs_by_each_algorithm_that_is_allowed_if_it_is_long_enough(
    token_issuer: TokenIssuer, open_verifier: Open, algorithm: str, bits: int, counts: bool
) -> None:
    private = rsa.generate_private_key(65537, bits)
    entry = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": "rsa"}
    token_issuer.documents[KEYS_PATH]["keys"].append(entry)
    claims = jwt.decode(token_issuer.token("alice"), options={"verify_signature": False})
    with warnings.catch_warnings(action="ignore"):
        token = jwt.encode(claims, private, algorithm, headers={"kid": "rsa"})
    async with open_verifier(auth_algorithms=f"{algorithm},ES256") as verifier:
        if counts:
            assert (await verifier.verify(token))["sub"] == "alice"
        else:
            with pytest.raises(InvalidTokenError, match="a key that the issuer does not have"):
                await verifier.verify(token)
    async with open_verifier(auth_algorithms="ES256") as verifier:
        with pytest.raises(InvalidTokenError, match=f"\\({algorithm}\\) is none of APP_AUTH_ALGOR"):
            await verifier.verify(token)


async def test_one_of_several_audiences_is_enough(
    token_issuer: TokenIssuer, open_verifier: Open
) -> None:
    async with open_verifier(auth_audience="old-name,new-name") as verifier:
        assert await verifier.verify(token_issuer.token("alice", aud="old-name"))
        assert await verifier.verify(token_issuer.token("alice", aud=["new-name", "x"]))
        with pytest.raises(InvalidTokenError, match="its audience"):
            await verifier.verify(token_issuer.token("alice"))


async def test_a_client_learns_that_a_token_expired_and_nothing_else(
    token_issuer: TokenIssuer, open_verifier: Open
) -> None:
    async with open_verifier() as verifier:
        with pytest.raises(InvalidTokenError) as expired:
            await verifier.verify(token_issuer.token("alice", exp=int(time.time()) - 60))
        with pytest.raises(InvalidTokenError) as for_others:
            await verifier.verify(token_issuer.token("alice", aud="x"))
    assert expired.value.description == "The access token expired"
    assert for_others.value.description == "The access token is not valid"


async def test_a_token_is_checked_once_and_counts_until_it_expires(
    token_issuer: TokenIssuer, open_verifier: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_verifier() as verifier:
        token = token_issuer.token("alice", exp=int(time.time()) + 3600)
        first = await verifier.verify(token)
        with monkeypatch.context() as patched:
            patched.setattr(jwt, "decode", None)
            assert await verifier.verify(token) == first
        moved = time.time() + 3600 + 29
        monkeypatch.setattr(tokens, "time", lambda: moved)
        with monkeypatch.context() as patched:
            patched.setattr(jwt, "decode", None)
            assert await verifier.verify(token) == first
            monkeypatch.setattr(tokens, "time", lambda: moved + 1)
            with pytest.raises(InvalidTokenError):
                await verifier.verify(token)


async def test_what_a_handler_does_to_claims_is_not_seen_by_the_next(
    token_issuer: TokenIssuer, open_verifier: Open
) -> None:
    async with open_verifier() as verifier:
        token = token_issuer.token("alice", roles=["reader"])
        claims: Any = await verifier.verify(token)
        claims["roles"].append("admin")
        claims["sub"] = "root"
        claims = await verifier.verify(token)
        assert (claims["sub"], claims["roles"]) == ("alice", ["reader"])


async def test_no_more_tokens_are_remembered_than_a_bound_and_none_as_it_is(
    token_issuer: TokenIssuer, open_verifier: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MOST_REMEMBERED", 10)
    async with open_verifier() as verifier:
        sent = [token_issuer.token(f"user-{number}") for number in range(25)]
        await asyncio.gather(*map(verifier.verify, sent))
        kept = verifier._verified
        assert len(kept) == 10
        assert not [token for token in sent if token in repr(kept)]
        monkeypatch.setattr(jwt, "decode", None)
        assert (await verifier.verify(sent[-1]))["sub"] == "user-24"
        with pytest.raises(InvalidTokenError):
            await verifier.verify(sent[0])
