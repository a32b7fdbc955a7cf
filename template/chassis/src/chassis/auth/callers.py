"""The caller of a request, as handlers ask for it, and what a route asks of the caller."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from fastapi.params import Depends
from fastapi.requests import HTTPConnection
from fastapi.routing import RouteContext

from ..http.problems import ProblemError
from ..http.routes import RouteError

if TYPE_CHECKING:
    from .authentication import Authentication

# The name of the bearer token in the OpenAPI document.
BEARER = "bearer"
# RFC 6749; a challenge has them in quotes.
_SCOPE_CHARACTERS = {*map(chr, range(0x21, 0x7F))} - {'"', "\\"}


class CallerError(RouteError):
    """A route that can't know its caller, and what to change."""


@dataclass(frozen=True)
class Caller:
    """Who sends a request, and what they may do."""

    subject: str
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    tenant: str | None = None
    # All that the token says; never logged.
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def identity(self) -> str:
        """Tenant and subject in one text, which no other caller has."""
        return json.dumps([self.tenant, self.subject])


class _GetOptionalCaller:
    """The dependency behind `OptionalCaller`."""

    async def __call__(self, connection: HTTPConnection) -> Caller | None:
        """Return who sends the request, or None; a token that is not valid is a 401 here too."""
        return await _find_authentication(connection).find_caller(connection)

    def check_route(self, route: RouteContext, app: FastAPI) -> None:
        """Raise CallerError if the service can't know who a caller is."""
        if app.state.authentication is None:
            raise CallerError(
                f"{route.path} asks for its caller, and nothing says who that is: set "
                "APP_AUTH_ISSUER and APP_AUTH_AUDIENCE, or pass create_app(authenticators=(…,))"
            )

    def describe_operation(self, operation: dict[str, Any]) -> Iterable[int]:
        """Add what a caller may send to an operation."""
        operation.setdefault("security", [{}, {BEARER: []}])
        return ()


class _GetCaller(_GetOptionalCaller):
    """The dependency behind `CurrentCaller`."""

    async def __call__(self, connection: HTTPConnection) -> Caller:
        """Return who sends the request. Raise ProblemError 401 if nothing says so."""
        caller = await super().__call__(connection)
        if caller is None:
            raise _find_authentication(connection).refuse()
        return caller

    def describe_operation(self, operation: dict[str, Any]) -> Iterable[int]:
        """Add what a caller has to send to an operation."""
        _describe_security(operation)
        return ()


get_optional_caller = _GetOptionalCaller()
get_caller = _GetCaller()

CurrentCaller = Annotated[Caller, Depends(get_caller)]
OptionalCaller = Annotated[Caller | None, Depends(get_optional_caller)]


class _RequireCaller(_GetCaller):
    """What `APP_AUTH_REQUIRED` puts before each route of the service's own."""

    async def __call__(self, connection: HTTPConnection) -> Caller | None:  # type: ignore[override]
        """Raise ProblemError 401 if nothing says who asks for what is not public."""
        authentication = _find_authentication(connection)
        if connection.scope.get("endpoint") in authentication.public_endpoints:
            return None
        return await super().__call__(connection)


require_caller = _RequireCaller()


class _Public:
    """The dependency behind `public`."""

    async def __call__(self) -> None:
        """Do nothing: the start finds it, and lets requests in."""

    def describe_operation(self, operation: dict[str, Any]) -> Iterable[int]:
        """Remove what APP_AUTH_REQUIRED has added to an operation."""
        operation.pop("security", None)
        return ()


# Of a route or a router that everybody may use: `dependencies=[public]`.
public = Depends(_Public())


@dataclass(frozen=True)
class _Requirement:
    """The dependency behind `requires`."""

    scopes: tuple[str, ...]

    async def __call__(self, caller: CurrentCaller) -> Caller:
        """Return the caller. Raise ProblemError 403 that names the scopes that are missing."""
        if missing := [scope for scope in self.scopes if scope not in caller.scopes]:
            raise _refuse_scopes(missing)
        return caller

    def describe_operation(self, operation: dict[str, Any]) -> Iterable[int]:
        """Add the scopes to an operation; return the status of who lacks one."""
        _describe_security(operation, self.scopes)
        return (403,)


def requires(*scopes: str) -> Depends:
    """Let in who has all of these scopes: `caller: Annotated[Caller, requires("items:write")]`.

    Also of a router or a service: `dependencies=[requires()]`, which lets every caller in. Raise
    ValueError for what is no scope.
    """
    for scope in scopes:
        if not scope or not _SCOPE_CHARACTERS.issuperset(scope):
            raise ValueError(f"requires({scope!r}): a scope has no spaces, such as items:write")
    return Depends(_Requirement(scopes))


def _describe_security(operation: dict[str, Any], scopes: Iterable[str] = ()) -> None:
    security = [one for one in operation.get("security", ()) if one] or [{}]
    operation["security"] = security
    security[0][BEARER] = sorted({*security[0].get(BEARER, ()), *scopes})


def _find_authentication(connection: HTTPConnection) -> "Authentication":
    authentication: Authentication | None = connection.scope["chassis"].app.state.authentication
    if authentication is None:
        raise CallerError("a route that asks for its caller was added after the start")
    return authentication


def _refuse_scopes(missing: list[str]) -> ProblemError:
    names = " ".join(missing)
    detail = f"This needs the scope {names}, which the caller does not have."
    challenge = f'Bearer error="insufficient_scope", error_description="{detail}", scope="{names}"'
    headers = {"WWW-Authenticate": challenge}
    return ProblemError(403, detail, headers=headers, missing_scopes=missing)
