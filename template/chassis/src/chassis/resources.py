"""A row as a resource of HTTP: found or 404, and changed only by who has seen its version."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.interfaces import ORMOption

from .http.problems import ProblemError

__all__ = ["IfMatch", "Precondition", "RequiredIfMatch", "etag", "get_or_404"]

Model = TypeVar("Model")

# RFC 9110, section 8.8.3; a tag may hold commas.
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")


async def get_or_404(
    session: AsyncSession,
    model: type[Model],
    key: Any,
    *,
    options: Sequence[ORMOption] | None = None,
    for_update: bool = False,
) -> Model:
    """Return the row of a primary key, or raise a ProblemError of 404 that names it.

    `options` load relations, such as `selectinload(Order.lines)`; `for_update` locks the row until
    the transaction ends.
    """
    found = await session.get(model, key, options=options, with_for_update=for_update or None)
    if found is None:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", model.__name__).lower()
        raise ProblemError(404, f"There is no {name} {_describe_key(key)}.")
    return found


def etag(version: int) -> str:
    """Return the `ETag` of a row's version: a strong one, as `If-Match` compares no other."""
    return f'"{version}"'


class Precondition:
    """What `If-Match` says of the version that a client wants to change."""

    def __init__(self, tags: frozenset[str] | None) -> None:
        # None if any version is right.
        self._tags = tags

    def check(self, version: int) -> None:
        """Raise a ProblemError of 412 unless a row's version is one of those that were named."""
        if self._tags is None or etag(version) in self._tags:
            return
        if f"W/{etag(version)}" in self._tags:
            raise ProblemError(412, f"{_WEAK} Send {etag(version)}.")
        raise ProblemError(
            412, "It is not the version that If-Match names: read it again, with its ETag."
        )


class IfMatchReader:
    """The dependency that reads `If-Match`. Without one any version is right, or it is a 428."""

    def __init__(self, *, is_required: bool) -> None:
        self._is_required = is_required

    async def __call__(self, request: Request) -> Precondition:
        """Raise a ProblemError of 422 for a malformed header, of 428 for one that is missing."""
        # All lines of the header are one list.
        lines = request.headers.getlist("if-match")
        if not lines and self._is_required:
            raise ProblemError(428, "Read it first, and send its ETag back as If-Match.")
        given = ",".join(lines).strip()
        if not lines or given == "*":
            return Precondition(None)
        if not _TAGS.fullmatch(given):
            raise ProblemError(422, "The request is not valid.", errors=[_MALFORMED])
        return Precondition(frozenset(re.findall(_TAG, given)))

    def describe_operation(self, operation: dict[str, Any]) -> tuple[int, ...]:
        """Add both headers to an operation of the OpenAPI document; return its problems."""
        header = {"name": "If-Match", "in": "header", "required": self._is_required} | _TAG_SCHEMA
        operation.setdefault("parameters", []).append(header)
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                response.setdefault("headers", {})["ETag"] = _TAG_SCHEMA
        return (412, 422, 428) if self._is_required else (412, 422)


IfMatch = Annotated[Precondition, Depends(IfMatchReader(is_required=False))]
"""What a client may say of the version that it changes: `if_match.check(order.version)`."""

RequiredIfMatch = Annotated[Precondition, Depends(IfMatchReader(is_required=True))]
"""The same, and 428 for a request that says nothing."""

_WEAK = "If-Match compares no weak tag (W/): a proxy that compresses may have made it one."
_TAG_SCHEMA = {"schema": {"type": "string"}, "description": "The version, in quotation marks."}
_MALFORMED = {
    "type": "entity_tag",
    "loc": ["header", "If-Match"],
    "msg": '* or a list of entity tags is expected, such as "3" with its quotation marks',
}


def _describe_key(key: Any) -> str:
    if isinstance(key, dict):
        key = tuple(key.values())
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)
