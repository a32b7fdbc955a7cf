"""The route that a request leads to, for one that was answered before any router saw it."""

from collections.abc import Sequence

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount


def match_template(routes: Sequence[BaseRoute], path: str, method: str | None) -> str | None:
    """Return the template of the route that a path leads to; None if there is no such route.

    One that does not take the method counts if no other does, as its answer is a 405.
    """
    of_another_method: str | None = None
    for context in iter_route_contexts(routes):
        pattern = getattr(context, "path_regex", None)
        if pattern is None or (found := pattern.match(path)) is None:
            continue
        template = context.path_format or ""
        if isinstance(mount := context.original_route, Mount):
            below = match_template(mount.routes, f"/{found['path']}", method)
            return None if below is None else template.removesuffix("/{path}") + below
        if context.methods is None or method in context.methods:
            return template
        of_another_method = of_another_method or template
    return of_another_method
