"""Answers: made before the commit, kept with it, and sent again as they were."""

from typing import Any

from fastapi import Request, Response
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import RowMapping

from .requests import IdempotencyError

MAX_ANSWER_BYTES = 1024 * 1024
REPLAYED_HEADER = "Idempotent-Replayed"
_STATUSES_WITHOUT_BODY = (204, 205, 304)


def make_response(answer: Any, request: Request, headers_and_status: Response) -> Response:
    """Return the response of a handler's answer, as its route says: status, `response_model` …

    It is JSON, with the headers and the status of the handler's argument of the type Response. A
    response that the handler made itself is returned as it is.
    """
    if isinstance(answer, Response):
        return answer
    route = request.scope["route"]
    status = headers_and_status.status_code or route.status_code or 200
    response = Response(status_code=status)
    if status not in _STATUSES_WITHOUT_BODY:
        response = Response(_serialize(answer, route), status, media_type="application/json")
    for name, value in headers_and_status.headers.items():
        response.headers.append(name, value)
    return response


def describe_response(response: Response) -> dict[str, Any]:
    """Return what is kept of a response. Raise IdempotencyError for one that can't be kept."""
    body = getattr(response, "body", None)
    if not isinstance(body, bytes | memoryview):
        problem = "is a stream, which nothing can send again: leave the key to another route"
    elif len(body) > MAX_ANSWER_BYTES:
        problem = f"has {len(body)} bytes, and {MAX_ANSWER_BYTES} may be kept: answer with an id"
    elif response.status_code >= 500:
        problem = f"has status {response.status_code}: raise an error, so that nothing is kept"
    else:
        headers = [list(one) for one in response.headers.items() if one[0] != "content-length"]
        return {"status": response.status_code, "headers": headers, "body": bytes(body)}
    raise IdempotencyError(f"commit(answer): {type(response).__name__} {problem}")


def replay_response(kept: RowMapping) -> Response:
    """Return the response that was kept, with a header that tells so."""
    response = Response(kept["body"], kept["status"])
    for name, value in kept["headers"]:
        response.headers.append(name, value)
    response.headers[REPLAYED_HEADER] = "true"
    return response


def _serialize(answer: Any, route: Any) -> bytes:
    """Return the JSON of an answer, as FastAPI makes it of what a handler returns."""
    adapter: TypeAdapter[Any] = TypeAdapter(route.response_model or Any)
    try:
        value = adapter.validate_python(answer, from_attributes=True)
    except ValidationError as error:
        # Its text has the values of the answer, which are not for the log.
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise IdempotencyError(f"commit(answer): no {route.response_model}: {found}") from None
    return adapter.dump_json(
        value,
        include=route.response_model_include,
        exclude=route.response_model_exclude,
        by_alias=route.response_model_by_alias,
        exclude_unset=route.response_model_exclude_unset,
        exclude_defaults=route.response_model_exclude_defaults,
        exclude_none=route.response_model_exclude_none,
    )
