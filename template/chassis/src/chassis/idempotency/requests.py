"""What a request is known by: its key, who sent it, and a fingerprint of its content."""

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from fastapi import FastAPI, Request, Response
from fastapi.routing import RouteContext
from starlette.datastructures import UploadFile

from ..http.problems import ProblemError

HEADER = "Idempotency-Key"
# A string of RFC 9651, without escapes, or the same without its quotes, as most clients send it.
_KEY = re.compile(r'"([ !#-\[\]-~]{1,255})"|([!#-+\--\[\]-~]{1,255})')
_KEY_FORMAT = "1 to 255 ASCII characters without spaces, commas, quotes and backslashes"
# What such a request changes nothing by; a websocket has no method.
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}
_CHUNK_BYTES = 64 * 1024


class IdempotencyError(Exception):
    """A route, a handler or a set-up that can't serve a request once, and what to change."""


class KeyedRequest(NamedTuple):
    """A request, what its handler sets of the response, and what it is known by if it has a key."""

    request: Request
    response: Response
    # Hashes: who sent which key to which route, and all that was sent with it.
    digest: str | None = None
    fingerprint: str = ""


class KeyHeader:
    """The dependency that returns the key of a request, or None if none has to be sent."""

    def __init__(self, *, required: bool) -> None:
        self._required = required

    async def __call__(self, request: Request) -> str | None:
        """Read the header. Raise ProblemError if it is missing, malformed or sent twice."""
        sent = request.headers.getlist(HEADER)
        if not sent and not self._required:
            return None
        if not sent:
            message = f"The header {HEADER} is required: a value of this request's own, as a UUID."
            raise refuse_key(400, "missing", message)
        found = _KEY.fullmatch(sent[0]) if len(sent) == 1 else None
        if found is None:
            message = f"The header {HEADER} is to be sent once, with {_KEY_FORMAT}."
            raise refuse_key(400, "idempotency_key_malformed", message)
        return found[1] or found[2]

    def check_route(self, route: RouteContext, app: FastAPI) -> None:
        """Raise IdempotencyError for a route that changes nothing."""
        if not route.methods or route.methods & _SAFE_METHODS:
            methods = ", ".join(sorted(route.methods or {"websocket"}))
            raise IdempotencyError(
                f"{methods} {route.path} takes an {HEADER}, which is for requests that change "
                "something, such as POST and PATCH: leave it out"
            )

    def describe_operation(self, operation: dict[str, Any]) -> Iterable[int]:
        """Add the header to an operation of the OpenAPI document; return its problems' statuses."""
        header = {
            "name": HEADER,
            "in": "header",
            "required": self._required,
            "description": "A value of this request's own, the same when it is sent again.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 257},
        }
        operation.setdefault("parameters", []).append(header)
        return (400, 409, 422)


async def identify_request(
    request: Request, response: Response, caller: object, key: str
) -> KeyedRequest:
    """Hash what a request is known by. Raise IdempotencyError for a caller that is no id."""
    caller = getattr(caller, "identity", caller)
    if not isinstance(caller, str | int | UUID) or caller == "":
        raise IdempotencyError(
            f"the caller of {request.scope['path']} is {type(caller).__name__}: return the id of "
            "who sends the request from idempotency(caller=…), a str, an int or a UUID, or a Caller"
        )
    route: str = request.scope["chassis"].name
    sent_to = (request.method, request.scope["path"], request.scope["query_string"])
    content = sha256(repr(sent_to).encode())
    content.update(await _hash_body(request))
    digest = sha256(repr((str(caller), route, key)).encode())
    return KeyedRequest(request, response, digest.hexdigest(), content.hexdigest())


def refuse_key(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> ProblemError:
    """Return the problem of a request whose key is at fault: its error names the header."""
    error = {"type": code, "loc": ["header", HEADER], "msg": message}
    return ProblemError(status, message, errors=[error], headers=headers)


def refuse_concurrent_request() -> ProblemError:
    """Return the problem of a request that is sent again while the first one is served."""
    message = "A request with this key is being served; send it again to get its answer."
    return refuse_key(409, "idempotency_key_in_use", message, {"Retry-After": "1"})


async def _hash_body(request: Request) -> bytes:
    try:
        return sha256(await request.body()).digest()
    except RuntimeError:
        # FastAPI has read it as a form. Its fields count: a multipart boundary is new each time.
        form = await request.form()
    fields = sha256()
    for name, value in form.multi_items():
        sent = value if isinstance(value, str) else (value.filename, await _hash_file(value))
        fields.update(repr((name, sent)).encode())
    return fields.digest()


async def _hash_file(file: UploadFile) -> str:
    content = sha256()
    while chunk := await file.read(_CHUNK_BYTES):
        content.update(chunk)
    await file.seek(0)
    return content.hexdigest()
