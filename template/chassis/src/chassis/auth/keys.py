"""The issuer's public keys: found by discovery, kept in memory, and fetched again."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ..db.errors import describe_error
from ..settings import ChassisSettings, check_server_url
from .documents import DocumentError, Documents
from .errors import InvalidTokenError, KeysUnavailableError

logger = logging.getLogger(__name__)

# Of these two the first is how long a key may count that the issuer has removed.
REFRESH_SECONDS = 300.0
RETRY_SECONDS = 30.0
# Whatever requests bring, keys are not fetched sooner after the last time.
COOLDOWN_SECONDS = 10.0
# Longer than this, keys don't count that could not be fetched again.
LONGEST_OUTAGE_SECONDS = 24 * 3600.0

SMALLEST_RSA_BITS = 2048
# What a key can sign with, by its type and curve.
_ALGORITHMS: dict[tuple[Any, Any], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

# By key id, and the algorithm of the signature.
Keys = Mapping[tuple[str | None, str], jwt.PyJWK]


class KeySet:
    """The keys of an issuer, as they were when they were fetched last."""

    def __init__(self, settings: ChassisSettings, clock: Callable[[], float] = monotonic) -> None:
        self._issuer = settings.auth_issuer or ""
        self._set_url = settings.auth_jwks_url
        self._discovered_url: str | None = None
        self._algorithms = settings.auth_algorithms
        self._documents = Documents()
        self._clock = clock
        self._document: dict[str, Any] | None = None
        self._keys: Keys = {}
        self._fetched = self._tried = -inf
        self._failure: str | None = "they were not fetched yet"
        self._fetching: asyncio.Task[None] | None = None

    @property
    def current(self) -> Keys:
        """The keys that count now; the same object until they change."""
        is_outdated = self._clock() - self._fetched > LONGEST_OUTAGE_SECONDS
        return {} if is_outdated else self._keys

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK:
        """Return the key of a token. One that is not known may be new: the keys are fetched.

        Raise InvalidTokenError if the issuer has no such key, KeysUnavailableError if it could not
        be asked.
        """
        key = self._look_up(key_id, algorithm)
        if key is None:
            await self.refresh()
            key = self._look_up(key_id, algorithm)
        if key is None and self._failure is not None:
            reason = f"the issuer's keys are not known: {self._failure}"
            raise KeysUnavailableError(reason, COOLDOWN_SECONDS)
        if key is None:
            raise InvalidTokenError("it is signed with a key that the issuer does not have")
        return key

    def _look_up(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        if key_id is not None:
            return self.current.get((key_id, algorithm))
        fitting = [key for (_, name), key in self.current.items() if name == algorithm]
        if len(fitting) > 1:
            raise InvalidTokenError("it does not name its key (kid), and the issuer has several")
        return fitting[0] if fitting else None

    async def refresh(self) -> None:
        """Fetch the keys, unless it was tried a moment ago; a failure is in the log only."""
        if self._fetching is None:
            if self._clock() - self._tried < COOLDOWN_SECONDS:
                return
            self._tried = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
        # All who wait have the one fetch, which goes on when one of them is gone.
        await asyncio.shield(self._fetching)

    async def keep_fresh(self) -> None:
        """Fetch the keys again and again, until this is cancelled."""
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(RETRY_SECONDS if self._failure else REFRESH_SECONDS)
        finally:
            if self._fetching is not None:
                self._fetching.cancel()

    async def _fetch(self) -> None:
        try:
            url = self._set_url or self._discovered_url or await self._discover_url()
            self._read(await self._documents.fetch(url))
        except Exception as error:
            # Known keys go on, whatever the issuer answers; its address may have changed.
            self._discovered_url = None
            self._failure = describe_error(error)
            logger.error("the keys of the issuer can't be fetched: %s", self._failure)
        finally:
            self._fetching = None

    def _read(self, document: dict[str, Any]) -> None:
        if document != self._document:
            keys = dict(self._iter_keys(document))
            if not keys:
                names = ", ".join(self._algorithms)
                raise DocumentError(f"their document has no key for APP_AUTH_ALGORITHMS ({names})")
            self._document, self._keys = document, keys
        self._fetched = self._clock()
        self._failure = None

    async def _discover_url(self) -> str:
        """Return where the issuer's own document says that its keys are."""
        document = await self._documents.fetch(
            self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        )
        if (named := document.get("issuer")) != self._issuer:
            raise DocumentError(
                f"APP_AUTH_ISSUER is {self._issuer}, and that issuer calls itself {named}: set it "
                f"exactly so{describe_slash(named, self._issuer)}"
            )
        try:
            self._discovered_url = check_server_url(str(document.get("jwks_uri")))
        except ValueError as error:
            raise DocumentError(f"jwks_uri of {self._issuer}: {error}") from None
        return self._discovered_url

    def _iter_keys(
        self, document: dict[str, Any]
    ) -> Iterator[tuple[tuple[str | None, str], jwt.PyJWK]]:
        """Yield the public keys in a document for each algorithm that they may be used with."""
        entries = document.get("keys")
        for entry in entries if isinstance(entries, list) else ():
            try:
                for algorithm in _find_algorithms(entry):
                    if algorithm in self._algorithms:
                        yield (_read_id(entry), algorithm), _read_key(entry, algorithm)
            except (jwt.PyJWTError, AttributeError, TypeError, ValueError) as error:
                logger.warning("a key of the issuer can't be used: %s", type(error).__name__)


def describe_slash(found: object, wanted: str) -> str:
    """Return a note if two issuers differ in the slash at their ends, which is easily missed."""
    is_near = isinstance(found, str) and found.rstrip("/") == wanted.rstrip("/")
    return " (the difference is the slash at the end)" if is_near else ""


def _find_algorithms(entry: dict[str, Any]) -> tuple[str, ...]:
    """Return the algorithms of a key: the one that it names, if its type fits, or all that fit."""
    if entry.get("use", "sig") != "sig":
        return ()
    fitting = _ALGORITHMS.get((entry.get("kty"), entry.get("crv")), ())
    named = entry.get("alg")
    return tuple(algorithm for algorithm in fitting if named in (None, algorithm))


def _read_id(entry: dict[str, Any]) -> str | None:
    if not isinstance(key_id := entry.get("kid"), str | None):
        raise TypeError("its id is no text")
    return key_id


def _read_key(entry: dict[str, Any], algorithm: str) -> jwt.PyJWK:
    key = jwt.PyJWK({name: entry[name] for name in entry if name in _PUBLIC}, algorithm)
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < SMALLEST_RSA_BITS:
        raise ValueError("is too short")
    return key


_PUBLIC = ("kty", "kid", "n", "e", "crv", "x", "y")
