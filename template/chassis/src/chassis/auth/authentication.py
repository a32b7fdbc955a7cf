"""Who sends a request: what the service's own authenticators say, or a bearer token (RFC 6750)."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase
from starlette.routing import BaseRoute

from ..http.problems import ProblemError
from ..http.request import add_log_fields
from ..settings import ChassisSettings
from .callers import BEARER, Caller, CallerError
from .errors import InvalidTokenError, KeysUnavailableError
from .required import find_public_endpoints

if TYPE_CHECKING:
    from .tokens import TokenVerifier

Authenticator = Callable[[HTTPConnection], Awaitable[Caller | None]]

_BEARER_SCHEME = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


class Authentication:
    """How a service finds out who sends a request."""

    def __init__(self, settings: ChassisSettings, authenticators: Sequence[Authenticator]) -> None:
        self._settings = settings
        self._authenticators = authenticators
        self._verifier: TokenVerifier | None = None
        # FastAPI's own for keys: no scheme is registered for them, and a 401 has to name one.
        self._challenge = "Bearer" if settings.auth_issuer else "APIKey"
        self.public_endpoints: frozenset[object] = frozenset()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Get ready to check tokens, if an issuer is set."""
        if not self._settings.auth_issuer:
            yield
            return
        try:
            from .tokens import open_token_verifier
        except ModuleNotFoundError as missing:
            raise CallerError(
                f"APP_AUTH_ISSUER needs {missing.name}: uv add 'service-chassis[auth]==0+template'"
            ) from missing

        async with open_token_verifier(self._settings) as self._verifier:
            yield

    async def find_caller(self, connection: HTTPConnection) -> Caller | None:
        """Return who sends a request, found once; None if nothing of it says so.

        Raise ProblemError 401 for a token that is not valid, 503 if that can't be told now.
        """
        record = connection.scope["chassis"]
        if record.caller is None:
            record.caller = caller = await self._authenticate(connection)
            if caller is not None:
                tenant = {} if caller.tenant is None else {"tenant": caller.tenant}
                add_log_fields(subject=caller.subject, **tenant)
        found: Caller | None = record.caller
        return found

    async def _authenticate(self, connection: HTTPConnection) -> Caller | None:
        sent = [value for name, value in connection.scope["headers"] if name == b"authorization"]
        if len(sent) > 1:
            raise self.refuse("invalid_request", "A request has one Authorization header")
        for authenticate in self._authenticators:
            if (caller := await authenticate(connection)) is not None:
                return caller
        scheme, _, token = sent[0].partition(b" ") if sent else (b"", b"", b"")
        if self._verifier is None or scheme.lower() != b"bearer":
            return None
        return await self._check_token(self._verifier, token.strip(b" "))

    async def _check_token(self, verifier: "TokenVerifier", token: bytes) -> Caller:
        try:
            return read_caller(await verifier.verify(token.decode("latin-1")), self._settings)
        except InvalidTokenError as error:
            raise self.refuse("invalid_token", error.description, str(error)) from None
        except KeysUnavailableError as error:
            add_log_fields(auth_error=str(error))
            headers = {"Retry-After": str(ceil(error.retry_after_seconds))}
            detail = "Tokens can't be checked now, as the keys of their issuer are missing."
            raise ProblemError(503, detail, headers=headers) from None

    def refuse(
        self, error: str | None = None, description: str = "", reason: str | None = None
    ) -> ProblemError:
        """Return the problem of a request that does not say who sends it, or not rightly.

        `reason` is for the log.
        """
        if error is None:
            detail = "This needs a caller, and the request does not say who sends it."
            return ProblemError(401, detail, headers={"WWW-Authenticate": self._challenge})
        add_log_fields(auth_error=reason or description)
        challenge = f'{self._challenge} error="{error}", error_description="{description}"'
        return ProblemError(401, f"{description}.", headers={"WWW-Authenticate": challenge})

    def plan_routes(self, app: FastAPI, own_routes: Sequence[BaseRoute]) -> None:
        """Find out which routes are public. Raise CallerError for one that can't be protected."""
        if self._settings.auth_required:
            self.public_endpoints = find_public_endpoints(app, own_routes)

    def describe(self, document: dict[str, Any]) -> None:
        """Add what callers send to the OpenAPI document, for each operation that needs one."""
        schemes = {BEARER: _BEARER_SCHEME} if self._settings.auth_issuer else {}
        for each in self._authenticators:
            if isinstance(each, SecurityBase):
                schemes[each.scheme_name] = each.model.model_dump(
                    mode="json", by_alias=True, exclude_none=True
                )
        for operations in document.get("paths", {}).values():
            for operation in operations.values():
                if any(BEARER in one for one in operation.get("security", ())):
                    operation["security"] = list(_offer_schemes(operation["security"], schemes))
                    document["components"].setdefault("securitySchemes", {}).update(schemes)


def _offer_schemes(
    security: list[dict[str, list[str]]], schemes: Mapping[str, Any]
) -> Iterator[dict[str, list[str]]]:
    """Yield the alternatives of an operation: each scheme in place of the bearer token."""
    for alternative in security:
        if BEARER not in alternative:
            yield alternative
        else:
            for name in schemes:
                yield {name: alternative[BEARER] if name == BEARER else []}


def read_caller(claims: Mapping[str, Any], settings: ChassisSettings) -> Caller:
    """Return the caller whom a checked token names."""
    tenant = _find_claim(claims, settings.auth_tenant_claim)
    if not isinstance(tenant, str | int | None):
        raise InvalidTokenError("its tenant (APP_AUTH_TENANT_CLAIM) is no text")
    return Caller(
        subject=claims["sub"],
        scopes=_read_names(claims, settings.auth_scopes_claim),
        roles=_read_names(claims, settings.auth_roles_claim),
        tenant=None if tenant is None else str(tenant),
        claims=claims,
    )


def _find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a path such as `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _read_names(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the names in a claim: a text with spaces between, or a list; of others none."""
    found = _find_claim(claims, name)
    names = found.split() if isinstance(found, str) else found
    return frozenset(
        each for each in (names if isinstance(names, list) else ()) if isinstance(each, str)
    )
