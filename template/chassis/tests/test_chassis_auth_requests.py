"""Requests with tokens that don't count, as a service sees them: what is answered, and logged."""

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic

import pytest
from chassis_stock import changed, create_stock, started
from fastapi import APIRouter
from httpx2 import AsyncClient

from chassis import ChassisSettings
from chassis.testing import TokenIssuer
from chassis.testing.log_lines import LogLines

pytest.importorskip("jwt", reason="needs the extra `auth`")

from chassis_forged_tokens import EVIL, FORGED, MARK, SUBJECT

from chassis.auth import CurrentCaller, keys
from chassis.testing.issuer import DISCOVERY_PATH, KEYS_PATH, SigningKey

router = APIRouter()


@router.get("/me")
async def read_me(caller: CurrentCaller) -> str:
    return caller.subject


@pytest.fixture
async def client(
    settings: ChassisSettings, token_issuer: TokenIssuer
) -> AsyncIterator[AsyncClient]:
    chosen = changed(settings, **token_issuer.settings, log_level="DEBUG")
    async with started(create_stock(chosen, router)) as client:
        yield client


async def test_each_token_that_is_forged_or_broken_is_a_401_and_in_no_line(
    client: AsyncClient, token_issuer: TokenIssuer, log_lines: LogLines
) -> None:
    good = {"Authorization": f"Bearer {token_issuer.token('alice')}"}
    assert (await client.get("/me", headers=good)).json() == "alice"
    for what, forged in FORGED.items():
        log_lines.clear()
        token = forged.make(token_issuer)
        header = f"Bearer {token}".replace("\n", "\t").encode("latin-1")
        answer = await client.get("/me", headers=[(b"Authorization", header)])

        assert answer.status_code == 401, what
        assert answer.headers["WWW-Authenticate"].startswith('Bearer error="invalid_token"'), what
        assert answer.headers["Content-Type"] == "application/problem+json", what
        [access] = [line for line in log_lines if line["logger"] == "chassis.access"]
        assert forged.reason in access["auth_error"], what
        seen = json.dumps(log_lines) + answer.text + str(answer.headers)
        parts = [part for part in (*token.split("."), SUBJECT, MARK, EVIL) if len(part) > 3]
        assert [part for part in parts if part in seen] == [], what
    assert token_issuer.requests == [DISCOVERY_PATH, KEYS_PATH]


async def test_a_thousand_requests_with_unknown_keys_fetch_once_a_cooldown(
    client: AsyncClient, token_issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "COOLDOWN_SECONDS", 0.5)
    good = {"Authorization": f"Bearer {token_issuer.token('alice')}"}
    tokens = [token_issuer.token("alice", headers={"kid": SigningKey().id}) for _ in range(1000)]
    assert (await client.get("/me", headers=good)).status_code == 200
    token_issuer.requests.clear()
    statuses: list[int] = []

    async def send(first: int) -> None:
        for token in tokens[first::20]:
            answer = await client.get("/me", headers={"Authorization": f"Bearer {token}"})
            statuses.append(answer.status_code)

    began = monotonic()
    await asyncio.gather(*map(send, range(20)))
    assert statuses == [401] * 1000
    assert 1 <= len(token_issuer.requests) <= (monotonic() - began) / 0.5 + 1
    assert set(token_issuer.requests) == {KEYS_PATH}
    assert (await client.get("/me", headers=good)).status_code == 200
