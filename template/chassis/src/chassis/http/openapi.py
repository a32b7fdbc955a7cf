"""The OpenAPI document: stable operation ids, and the problems that each operation answers with."""

from collections.abc import Iterator
from http import HTTPStatus
from math import inf
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from ..db.request_sessions import uses_database
from ..db.route_dependencies import find_dependencies
from ..settings import ChassisSettings
from .limits import RequestLimits, find_limits
from .problems import MEDIA_TYPE, InvalidInput, Problem

_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def operation_id(route: APIRoute) -> str:
    """Name an operation by tag and function, so that a client's names outlive paths and FastAPI."""
    tag = f"{route.tags[0]}_" if route.tags else ""
    return f"{tag}{route.name}"


def describe_problems(document: dict[str, Any], app: FastAPI, default: RequestLimits) -> None:
    """Rewrite a document: errors are problems, of their own media type, and all are listed."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (InvalidInput, Problem):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        schemas[model.__name__] = schema
    settings: ChassisSettings = app.state.settings
    routes = dict(_find_operations(app))
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            route = routes[path, method]
            statuses = set(_possible_statuses(operation, settings, find_limits(route, default)))
            if uses_database(route):
                statuses |= {503, 504}
            statuses.update(_describe_dependencies(operation, route))
            if "security" in operation:
                statuses |= {401, 503}
            _describe_operation(operation, statuses)
            for status in _find_documented_problems(route):
                response = operation["responses"].get(status, {})
                _move_to_media_type(response.get("content", {}))


def _describe_operation(operation: dict[str, Any], statuses: set[int]) -> None:
    responses = operation.setdefault("responses", {})
    for response in responses.values():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        if schema.get("$ref", "").endswith("/HTTPValidationError"):
            response.update(content=_PROBLEM, description=HTTPStatus(422).phrase)
    for status in sorted(statuses):
        problem = {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
        responses.setdefault(str(status), problem)


def _move_to_media_type(content: dict[str, Any]) -> None:
    """Move the schema of a problem from the media type of the route's other answers."""
    for media_type in content.keys() - {MEDIA_TYPE}:
        if "$ref" in content[media_type].get("schema", {}):
            content.setdefault(MEDIA_TYPE, {}).update(content.pop(media_type))


def _possible_statuses(
    operation: dict[str, Any], settings: ChassisSettings, limits: RequestLimits
) -> Iterator[int]:
    """Yield the statuses of problems that any such request can meet before its handler."""
    if "*" not in settings.http_allowed_hosts:
        yield 400
    if settings.http_max_concurrent_requests:
        yield 503
    if limits.timeout_seconds < inf:
        yield 504
    if "requestBody" in operation:
        yield from (400, 408, 413)


def _describe_dependencies(operation: dict[str, Any], route: RouteContext) -> Iterator[int]:
    """Let dependencies with a method `describe_operation` add to it; yield their statuses."""
    for dependency in find_dependencies(route):
        describe = getattr(dependency.call, "describe_operation", None)
        if describe is not None:
            yield from describe(operation)


def _find_operations(app: FastAPI) -> Iterator[tuple[tuple[str, str], RouteContext]]:
    for route in iter_route_contexts(app.routes):
        for method in route.methods or ():
            yield (route.path_format or "", method.lower()), route


def _find_documented_problems(route: RouteContext) -> Iterator[str]:
    """Yield the status of each answer of a route that is documented as a Problem."""
    for status, response in getattr(route, "responses", {}).items():
        model = response.get("model")
        if isinstance(model, type) and issubclass(model, Problem):
            yield str(status)
