"""Access tokens: which of them count (RFC 9068), and what they say."""

import asyncio
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from time import monotonic, time
from typing import Any

import jwt

from ..settings import SIGNATURE_ALGORITHMS, ChassisSettings
from .errors import InvalidTokenError, KeysUnavailableError
from .keys import Keys, KeySet, describe_slash

__all__ = ["InvalidTokenError", "KeysUnavailableError", "TokenVerifier", "open_token_verifier"]

# Those of issuers that put groups into them have a few thousand.
MOST_CHARACTERS = 16 * 1024
MOST_REMEMBERED = 5_000

_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
# An issuer signs more than access tokens: what logs somebody out, for one.
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_REASONS: dict[type[Exception], str] = {
    jwt.ImmatureSignatureError: "it is not valid yet (nbf, iat): is a clock wrong?",
    jwt.InvalidAudienceError: "its audience (aud) is none of APP_AUTH_AUDIENCE",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.exceptions.InvalidSubjectError: "its subject (sub) is no text",
}


@asynccontextmanager
async def open_token_verifier(
    settings: ChassisSettings, *, clock: Callable[[], float] = monotonic
) -> AsyncIterator["TokenVerifier"]:
    """Yield what checks tokens, with the issuer's keys kept fresh meanwhile.

    An issuer that does not answer is no error: until it does, no token can be checked.
    """
    keys = KeySet(settings, clock)
    refreshing = asyncio.create_task(keys.keep_fresh(), name="keys of the issuer")
    try:
        yield TokenVerifier(keys, settings)
    finally:
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing


@dataclass(frozen=True)
class _Verified:
    """What is remembered of a token; its keys, so that it is forgotten when they change."""

    claims: str
    expires: float
    keys: Keys


class TokenVerifier:
    """Checks access tokens, and remembers by their hashes those that count."""

    def __init__(self, keys: KeySet, settings: ChassisSettings) -> None:
        self._keys = keys
        self._issuer = settings.auth_issuer or ""
        self._audience = settings.auth_audience
        self._algorithms = settings.auth_algorithms
        self._leeway = settings.auth_leeway_seconds
        self._verified: dict[bytes, _Verified] = {}

    async def verify(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token.

        Raise InvalidTokenError for one that does not count, KeysUnavailableError if that can't be
        told now.
        """
        digest = sha256(token.encode(errors="surrogatepass")).digest()
        verified = self._verified.get(digest)
        if (
            verified is None
            or verified.keys is not self._keys.current
            or verified.expires <= time()
        ):
            verified = await self._check(token)
            self._remember(digest, verified)
        # Read anew: nobody can change what the next request finds.
        claims: Mapping[str, Any] = json.loads(verified.claims)
        return claims

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        if len(self._verified) >= MOST_REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = verified

    async def _check(self, token: str) -> _Verified:
        header = _read_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            raise InvalidTokenError(_describe_algorithm(algorithm))
        if not isinstance(key_id, str | None):
            raise InvalidTokenError("its key id (kid) is no text")
        key = await self._keys.find(key_id, algorithm)
        claims = self._decode(token, key, algorithm)
        if (issuer := claims["iss"]) != self._issuer:
            note = describe_slash(issuer, self._issuer)
            raise InvalidTokenError(f"its issuer (iss) is not APP_AUTH_ISSUER{note}")
        if type(claims["exp"]) not in (int, float):
            raise InvalidTokenError("its exp is no number")
        if not claims["sub"]:
            raise InvalidTokenError("its subject (sub) is empty")
        return _Verified(json.dumps(claims), claims["exp"] + self._leeway, self._keys.current)

    def _decode(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        """Return the claims of a token that the key has signed, and that is for us and now."""
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                leeway=self._leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise InvalidTokenError("it has expired", "The access token expired") from None
        except jwt.MissingRequiredClaimError as error:
            raise InvalidTokenError(f"it has no {error.claim}") from None
        except Exception as error:
            # Whatever it makes pyjwt raise, the token is what is wrong; the text may have parts.
            reason = _REASONS.get(type(error), "its parts are not what a token has")
            raise InvalidTokenError(reason) from None


def _read_header(token: str) -> dict[str, Any]:
    """Return the header of a token, which says how to check the rest, and so is not trusted."""
    if len(token) > MOST_CHARACTERS:
        raise InvalidTokenError(f"it has more than {MOST_CHARACTERS} characters")
    if not _TOKEN.fullmatch(token):
        raise InvalidTokenError("it is no signed JWT: three parts of base64url with dots between")
    try:
        part = token.partition(".")[0].encode()
        header = json.loads(urlsafe_b64decode(part + b"=="), object_pairs_hook=_read_object)
    except (ValueError, RecursionError):
        raise InvalidTokenError("its header is no JSON object, or names a member twice") from None
    if not isinstance(header, dict):
        raise InvalidTokenError("its header is no JSON object")
    if str(header.get("typ", "jwt")).lower() not in _TYPES:
        raise InvalidTokenError("its type (typ) is not that of an access token")
    if "crit" in header:
        raise InvalidTokenError("it needs extensions (crit), and none are known here")
    return header


def _read_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raise ValueError for one that readers may take differently."""
    if len(found := dict(members)) < len(members):
        raise ValueError
    return found


def _describe_algorithm(algorithm: object) -> str:
    # Another text may be anything.
    named = f" ({algorithm})" if algorithm in (*SIGNATURE_ALGORITHMS, "HS256", "none") else ""
    return f"the algorithm of its signature{named} is none of APP_AUTH_ALGORITHMS"
