"""The dependencies of a route, found as FastAPI finds them: by what functions say they need."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

from fastapi.params import Depends
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute


class Dependency(NamedTuple):
    """What is called for a route, and the dependency that asked for it, if it was not the route."""

    call: Callable[..., Any]
    scope: str | None
    parent: "Dependency | None"

    @property
    def name(self) -> str:
        """What it is called by in messages."""
        return str(getattr(self.call, "__name__", repr(self.call)))

    @property
    def ends_with_request(self) -> bool:
        """Return whether it has code after a `yield`, which runs after the response."""
        call = inspect.unwrap(self.call)
        # An object is called by its class's method.
        functions = (call, type(call).__call__)
        is_generator = any(
            inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
            for each in functions
        )
        return is_generator and self.scope != "function"


def iter_routes(routes: Sequence[BaseRoute]) -> Iterator[RouteContext]:
    """Yield the routes of an application, and of all that is mounted in it."""
    for context in iter_route_contexts(routes):
        yield context
        yield from iter_routes(getattr(context.original_route, "routes", None) or ())


def find_dependencies(context: RouteContext) -> Iterator[Dependency]:
    """Yield what a route depends on, its router's dependencies and those of each one included."""
    for marker in getattr(context, "dependencies", None) or ():
        if marker.dependency is not None:
            yield from _walk_dependency(Dependency(marker.dependency, marker.scope, None))
    if context.endpoint is not None:
        yield from _find_in_signature(context.endpoint, None)


def read_parameters(call: Callable[..., Any]) -> Iterator[tuple[str, Any, list[Depends]]]:
    """Yield the name of each parameter of a function, its type and its dependencies."""
    for parameter in _read_signature(call).parameters.values():
        annotation = _evaluate_annotation(parameter.annotation, call)
        marks = (parameter.default, *getattr(annotation, "__metadata__", ()))
        yield parameter.name, annotation, [mark for mark in marks if isinstance(mark, Depends)]


def _walk_dependency(dependency: Dependency) -> Iterator[Dependency]:
    yield dependency
    yield from _find_in_signature(dependency.call, dependency)


def _find_in_signature(call: Callable[..., Any], parent: Dependency | None) -> Iterator[Dependency]:
    for _, annotation, markers in read_parameters(call):
        for marker in markers:
            # `Depends()` calls the type itself.
            needed = marker.dependency or getattr(annotation, "__origin__", annotation)
            yield from _walk_dependency(Dependency(needed, marker.scope, parent))


def _read_signature(call: Callable[..., Any]) -> inspect.Signature:
    """Return a signature, with names in it as text that only a type checker imports."""
    try:
        return inspect.signature(call, eval_str=True)
    except NameError:
        if sys.version_info >= (3, 14):
            forward_references = import_module("annotationlib").Format.FORWARDREF
            return inspect.signature(call, annotation_format=forward_references)
        return inspect.signature(call)


def _evaluate_annotation(annotation: Any, call: Callable[..., Any]) -> Any:
    if isinstance(annotation, str):
        with suppress(NameError):
            annotation = eval(annotation, getattr(inspect.unwrap(call), "__globals__", {}))
    # What `type Name = …` is another name of.
    return getattr(annotation, "__value__", annotation)
