"""Who sends a request: what the service's own authenticators say, or a bearer token (RFC 6750)."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase
from starlette.routing import BaseRoute

from ..http.problems import ProblemError
from ..http.request import add_log_fields
from ..settings import ChassisSettings
from .callers import BEARER, Caller
from .required import find_public_endpoints

Authenticator = Callable[[HTTPConnection], Awaitable[Caller | None]]

# What may not stand in the quotes of a challenge.
_NO_DESCRIPTION = re.compile(r"[^ !#-\[\]-~]")
_BEARER_SCHEME = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


class Authentication:
    """How a service finds out who sends a request."""

    def __init__(self, settings: ChassisSettings, authenticators: Sequence[Authenticator]) -> None:
        self._settings = settings
        self._authenticators = authenticators
        # FastAPI's own for keys: no scheme is registered for them, and a 401 has to name one.
        self._challenge = "Bearer" if settings.auth_issuer else "APIKey"
        self.public_endpoints: frozenset[object] = frozenset()

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
            raise self.refuse("invalid_request", "there is more than one Authorization header")
        for authenticate in self._authenticators:
            if (caller := await authenticate(connection)) is not None:
                return caller
        return None

    def refuse(self, error: str | None = None, reason: str = "") -> ProblemError:
        """Return the problem of a request that does not say who sends it, or not rightly."""
        if error is None:
            detail = "This needs a caller, and the request does not say who sends it."
            return ProblemError(401, detail, headers={"WWW-Authenticate": self._challenge})
        reason = _NO_DESCRIPTION.sub("?", reason)
        add_log_fields(auth_error=reason)
        challenge = f'{self._challenge} error="{error}", error_description="{reason}"'
        detail = f"The request does not say rightly who sends it: {reason}."
        return ProblemError(401, detail, headers={"WWW-Authenticate": challenge})

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
        document["components"].setdefault("securitySchemes", {}).update(schemes)
        for operations in document.get("paths", {}).values():
            for operation in operations.values():
                if "security" in operation:
                    operation["security"] = list(_offer_schemes(operation["security"], schemes))


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
