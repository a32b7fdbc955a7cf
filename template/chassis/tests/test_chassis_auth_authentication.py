"""Bearer tokens through a whole application: what is sent, what is answered, what is logged."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import pytest
from chassis_stock import changed, create_stock, started
from fastapi import APIRouter
from fastapi.requests import HTTPConnection
from httpx2 import AsyncClient

from chassis import ChassisSettings, create_app
from chassis.auth import Caller, CurrentCaller, OptionalCaller, requires
from chassis.auth.authentication import read_caller
from chassis.auth.errors import InvalidTokenError
from chassis.testing import TokenIssuer
from chassis.testing.log_lines import LogLines

pytest.importorskip("jwt", reason="needs the extra `auth`")

router = APIRouter()


@router.get("/me")
async def read_me(caller: CurrentCaller) -> dict[str, Any]:
    return {
        "subject": caller.subject,
        "scopes": sorted(caller.scopes),
        "roles": sorted(caller.roles),
        "tenant": caller.tenant,
        "email": caller.claims.get("email"),
    }


@router.get("/anyone")
async def read_anyone(caller: OptionalCaller) -> str | None:
    return None if caller is None else caller.subject


@router.post("/items")
async def write_item(caller: Annotated[Caller, requires("items:write")]) -> str:
    return caller.subject


@pytest.fixture
def issued(settings: ChassisSettings, token_issuer: TokenIssuer) -> ChassisSettings:
    # The kit's own callers have keys in a file, which are of no use here.
    return changed(settings, **{"auth_jwks_url": "file:///keys.json"} | token_issuer.settings)


@pytest.fixture
async def client(issued: ChassisSettings) -> AsyncIterator[AsyncClient]:
    async with started(create_stock(issued, router)) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_token_says_who_the_caller_is(
    client: AsyncClient, token_issuer: TokenIssuer
) -> None:
    token = token_issuer.token(
        "ada", scopes=["items:read", "a"], roles=["admin"], tenant="acme", email="ada@example.com"
    )
    answer = await client.get("/me", headers=bearer(token))

    assert answer.json() == {
        "subject": "ada",
        "scopes": ["a", "items:read"],
        "roles": ["admin"],
        "tenant": "acme",
        "email": "ada@example.com",
    }


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer ", "beArer"])
async def test_the_name_of_the_scheme_has_no_case(
    client: AsyncClient, token_issuer: TokenIssuer, scheme: str
) -> None:
    headers = {"Authorization": f"{scheme} {token_issuer.token('ada')}"}
    assert (await client.get("/me", headers=headers)).json()["subject"] == "ada"

    assert (
        await client.get("/me", headers={"Authorization": f"{scheme} x.y.z"})
    ).status_code == 401


async def test_a_request_without_a_token_gets_a_challenge_without_an_error(
    client: AsyncClient,
) -> None:
    for headers in ({}, {"Authorization": "Basic YWRhOnNlY3JldA=="}, {"Authorization": "Bearer"}):
        answer = await client.get("/me", headers=headers)
        assert answer.status_code == 401
        if headers != {"Authorization": "Bearer"}:
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_an_expired_token_is_told_from_one_that_is_wrong(
    client: AsyncClient, token_issuer: TokenIssuer, log_lines: LogLines
) -> None:
    expired = await client.get("/me", headers=bearer(token_issuer.token("ada", exp=1)))
    strange = await client.get("/me", headers=bearer(token_issuer.token("ada", aud="others")))

    begin = 'Bearer error="invalid_token", error_description='
    assert expired.headers["WWW-Authenticate"] == f'{begin}"The access token expired"'
    assert strange.headers["WWW-Authenticate"] == f'{begin}"The access token is not valid"'
    assert expired.json()["detail"] == "The access token expired."
    first, second = (line for line in log_lines if line["logger"] == "chassis.access")
    assert first["auth_error"] == "it has expired"
    assert "APP_AUTH_AUDIENCE" in second["auth_error"]
    assert "subject" not in first


def broken_headers(issuer: TokenIssuer) -> dict[str, list[tuple[str, str]]]:
    good = f"Bearer {issuer.token('ada')}"
    return {
        "two headers": [("Authorization", good), ("Authorization", good)],
        "two headers, the first another's": [
            ("Authorization", "Basic eA=="),
            ("authorization", good),
        ],
        "two tokens in one": [("Authorization", f"{good}, {good}")],
        "a token and more": [("Authorization", f"{good} x")],
        "scheme twice": [("Authorization", f"Bearer {good}")],
        "no scheme": [("Authorization", good.removeprefix("Bearer "))],
        "another scheme": [("Authorization", good.replace("Bearer", "Token"))],
        "a tab": [("Authorization", good.replace(" ", "\t"))],
        "no token": [("Authorization", "Bearer ")],
        "nothing": [("Authorization", "")],
        "quotes": [("Authorization", good.replace(" ", ' "') + '"')],
        "cut off": [("Authorization", good[:-20])],
        "without a signature": [("Authorization", good.rpartition(".")[0] + ".")],
        "oversized": [("Authorization", good + "a" * 20_000)],
        "huge": [("Authorization", "Bearer " + "a.b." * 10_000)],
        "bytes": [("Authorization", "Bearer \xe9.\xff.\x80")],
        "another header": [("X-Authorization", good)],
        "HS256": [("Authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.e30")],
        "none": [("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")],
        "no JSON": [("Authorization", "Bearer YQ.YQ.YQ")],
    }


BROKEN = [
    *("two headers", "two headers, the first another's", "two tokens in one", "a token and more"),
    *("scheme twice", "no scheme", "another scheme", "a tab", "no token", "nothing", "quotes"),
    *("cut off", "without a signature", "oversized", "huge", "bytes", "another header"),
    *("HS256", "none", "no JSON"),
]


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("path", ["/me", "/anyone"])
async def test_what_is_no_token_is_a_401_and_in_no_line(
    client: AsyncClient, token_issuer: TokenIssuer, log_lines: LogLines, name: str, path: str
) -> None:
    sent = broken_headers(token_issuer)[name]
    pairs = [(key.encode(), value.encode("latin-1")) for key, value in sent]
    answer = await client.get(path, headers=pairs)

    is_absent = name in ("no scheme", "another scheme", "a tab", "nothing", "another header")
    if path == "/anyone" and is_absent:
        assert answer.json() is None
    else:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.headers["Content-Type"] == "application/problem+json"
    written = json.dumps(list(log_lines)) + answer.text + str(answer.headers)
    for _, value in sent:
        for part in filter(lambda part: len(part) > 10, value.replace(".", " ").split()):
            assert part not in written


def test_every_broken_header_is_tried(token_issuer: TokenIssuer) -> None:
    assert [*broken_headers(token_issuer)] == BROKEN


async def test_a_token_that_is_wrong_is_refused_where_no_caller_is_needed(
    client: AsyncClient,
) -> None:
    assert (await client.get("/anyone", headers=bearer("x.y.z"))).status_code == 401


async def test_an_issuer_that_never_answered_is_a_503(
    issued: ChassisSettings, token_issuer: TokenIssuer, log_lines: LogLines
) -> None:
    token = token_issuer.token("ada")
    token_issuer.stop()
    async with started(create_stock(issued, router)) as client:
        answer = await client.get("/me", headers=bearer(token))
    token_issuer.start()

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "issuer" in answer.json()["detail"]
    access = next(line for line in log_lines if line["logger"] == "chassis.access")
    assert "the issuer's keys are not known" in access["auth_error"]
    assert token.split(".")[2] not in json.dumps(list(log_lines))


async def test_an_authenticator_is_asked_before_the_token(
    issued: ChassisSettings, token_issuer: TokenIssuer
) -> None:
    async def read_key(connection: HTTPConnection) -> Caller | None:
        return Caller("machine") if connection.headers.get("x-api-key") == "key" else None

    app = create_app(issued, package="stock", routers=[router], authenticators=[read_key])
    async with started(app) as client:
        headers = bearer(token_issuer.token("ada"))
        assert (await client.get("/anyone", headers=headers)).json() == "ada"
        assert (await client.get("/anyone", headers=headers | {"X-API-Key": "key"})).json() == (
            "machine"
        )
        assert (await client.get("/anyone", headers={"X-API-Key": "other"})).json() is None


@pytest.mark.parametrize(
    ("claims", "names", "expected"),
    [
        ({"scope": "a b"}, {}, ({"a", "b"}, set(), None)),
        ({"scope": ["a", "b"], "tenant": 7}, {}, ({"a", "b"}, set(), "7")),
        ({"scope": {"a": 1}, "roles": 5, "tenant": None}, {}, (set(), set(), None)),
        ({"scp": "a"}, {"scopes": "scp"}, ({"a"}, set(), None)),
        (
            {"realm_access": {"roles": ["admin"]}},
            {"roles": "realm_access.roles"},
            (set(), {"admin"}, None),
        ),
        ({"realm_access": ["x"]}, {"roles": "realm_access.roles"}, (set(), set(), None)),
        (
            {"https://example.com/org.id": "acme"},
            {"tenant": "https://example.com/org.id"},
            (set(), set(), "acme"),
        ),
    ],
)
def test_claims_are_found_by_name_or_path(
    settings: ChassisSettings,
    claims: Mapping[str, Any],
    names: Mapping[str, str],
    expected: tuple[set[str], set[str], str | None],
) -> None:
    named = changed(settings, **{f"auth_{what}_claim": name for what, name in names.items()})
    caller = read_caller({"sub": "ada", **claims}, named)

    assert (set(caller.scopes), set(caller.roles), caller.tenant) == expected


def test_a_tenant_that_is_no_text_is_refused(settings: ChassisSettings) -> None:
    with pytest.raises(InvalidTokenError, match="its tenant"):
        read_caller({"sub": "ada", "tenant": ["acme"]}, settings)


def test_a_caller_is_known_by_tenant_and_subject() -> None:
    callers = [Caller("a"), Caller("a", tenant="b"), Caller("b", tenant="a"), Caller('a", "b')]

    assert len({caller.identity for caller in callers}) == len(callers)
    assert "secret" not in repr(Caller("a", claims={"secret": 1}))
