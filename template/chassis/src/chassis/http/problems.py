"""Problem details (RFC 9457): one shape for every answer that is not a success."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException as StarletteHTTPException

MEDIA_TYPE = "application/problem+json"
# The type of a problem that is told by its status alone.
UNTYPED = "about:blank"

_REGISTERED_STATUSES = frozenset(HTTPStatus)
# What OpenAPI calls several statuses at once.
_STATUS_RANGES = {"4XX": "Client Error", "5XX": "Server Error", "default": "Problem"}
# RFC 9457 names an occurrence by `instance`; here its request id does.
_OCCURRENCE_MEMBERS = frozenset({"instance", "request_id"})


class InvalidInput(BaseModel):
    """One thing that is wrong with a request; never the value that was sent."""

    type: str = Field(description="A stable code of what is wrong.")
    loc: list[str | int] = Field(description="Where it is: body, query, path …, then the field.")
    msg: str = Field(description="What is expected.")


class Problem(BaseModel):
    """A problem detail (RFC 9457). A kind of problem may have further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(UNTYPED, description="A URI that names the kind of problem.")
    title: str = Field(description="The kind of problem in words, or the status.")
    status: int = Field(description="The HTTP status code.")
    detail: str | None = Field(None, description="What went wrong this time.")
    details: Any = Field(None, description="What went wrong, if that is no text.")
    request_id: str | None = Field(None, description="The request's name in the logs.")
    errors: list[InvalidInput] | None = Field(None, description="What is wrong with the input.")


class ProblemError(HTTPException):
    """An HTTPException whose answer is a problem of some type, with members of its own.

    `type` is a URI that names the kind of problem and `title` its words; a member is anything
    that JSON can hold. Raise ValueError for what no problem can have.
    """

    def __init__(
        self,
        status: int,
        detail: str | None = None,
        *,
        type: str = UNTYPED,
        title: str | None = None,
        errors: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        self.problem = describe_problem(
            status, detail, type=type, title=title, errors=errors, **members
        )
        super().__init__(status, detail, headers)


def problem_responses(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """Document the problems a route answers with: `responses=problem_responses(404, 409)`.

    A status is a number of 400 to 599, "4XX", "5XX" or "default". Raise ValueError for others.
    """
    documented = [_check_documented_status(status) for status in statuses]
    return {one: {"model": Problem, "description": phrase_of(one)} for one in documented}


def describe_problem(
    status: int,
    detail: str | None = None,
    *,
    type: str = UNTYPED,
    title: str | None = None,
    errors: Sequence[Mapping[str, Any]] | None = None,
    **members: Any,
) -> dict[str, Any]:
    """Return a problem as JSON, all but the request's id."""
    _check_problem(status, type, members, detail=detail, title=title)
    phrase = phrase_of(status)
    problem: dict[str, Any] = {"type": type, "title": title or phrase, "status": int(status)}
    if detail and detail != phrase:
        problem["detail"] = detail
    if errors is not None:
        problem["errors"] = [InvalidInput.model_validate(one).model_dump() for one in errors]
    problem.update(to_jsonable_python(members, inf_nan_mode="null"))
    return problem


def describe_exception(error: StarletteHTTPException) -> dict[str, Any]:
    """Return an HTTPException as a problem: members of its detail are the problem's.

    A list of errors is its `errors`. Any other value is its `details`, as is a dict which has a
    member that means something else in a problem.
    """
    if isinstance(error, ProblemError):
        return error.problem
    detail: Any = error.detail
    if isinstance(detail, str):
        return describe_problem(error.status_code, detail)
    detail = to_jsonable_python(detail, inf_nan_mode="null")
    with suppress(TypeError, ValueError):
        if isinstance(detail, dict):
            return describe_problem(error.status_code, **detail)
        if isinstance(detail, list):
            return describe_problem(error.status_code, errors=detail)
    return describe_problem(error.status_code, details=detail)


def phrase_of(status: int | str) -> str:
    """Return the words of a status; not every one in use is registered, such as 499 and 520."""
    if isinstance(status, str):
        return _STATUS_RANGES[status]
    return HTTPStatus(status).phrase if status in _REGISTERED_STATUSES else f"Status {status}"


def _check_documented_status(status: int | str) -> int | str:
    if status in _STATUS_RANGES:
        return status
    if re.fullmatch(r"[45]\d\d", str(status)):
        return int(status)
    raise ValueError(
        f"problem_responses({status!r}): a status of a problem is a number of 400 to 599, "
        '"4XX", "5XX" or "default"'
    )


def _check_problem(status: int, type: str, members: Mapping[str, Any], **texts: str | None) -> None:
    """Raise ValueError for what no problem can have."""
    if not isinstance(status, int) or not 400 <= status <= 599:
        raise ValueError(f"a problem has a status of 400 to 599, not {status!r}")
    if not isinstance(type, str) or not re.fullmatch(r"[!-~]+", type):
        raise ValueError(f"the type of a problem is a URI, not {type!r}")
    for name, value in texts.items():
        if not isinstance(value, str | None):
            raise ValueError(
                f"the {name} of a problem is text, not {value!r}; give it as a member, such as "
                "ProblemError(409, left=3)"
            )
    for name in sorted(_OCCURRENCE_MEMBERS & members.keys()):
        raise ValueError(f"{name} can't be a member of a problem: its request_id is set for it")
