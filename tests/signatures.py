"""What a public object is, in lines: its kind, its parameters, its fields, and their types."""

import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from chassis.db import DatabaseSettings
from pydantic import BaseModel
from pydantic.fields import FieldInfo

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def describe(name: str, thing: object) -> Iterator[str]:
    """Yield a line for each thing that a caller relies on, the kind among them."""
    if inspect.isclass(thing):
        yield from _describe_class(name, thing)
    elif get_origin(thing) is Annotated:
        base, *marks = get_args(thing)
        yield f"{name}: type {write_type(base)}, {', '.join(map(_describe_mark, marks))}"
    elif isinstance(get_origin(thing), type):
        yield f"{name}: type {write_type(thing)}"
    elif callable(thing):
        yield f"{name}: {_find_kind(thing)} -> {write_type(_signature(thing).return_annotation)}"
        if not _is_fixture(thing):
            yield from _describe_parameters(name, thing)
    else:
        yield f"{name}: {type(thing).__name__}"


def write_type(annotation: Any) -> str:
    """Write a type without the modules of its names, the same on every Python."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, list):
        return f"[{', '.join(map(write_type, annotation))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(map(write_type, arguments))
    if origin is Annotated:
        return write_type(arguments[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if arguments:
        return f"{_write_name(annotation)}[{', '.join(map(write_type, arguments))}]"
    return _write_name(annotation)


def _write_name(annotation: Any) -> str:
    if annotation in (None, type(None), inspect.Signature.empty):
        return "None"
    name = getattr(annotation, "__name__", None) or str(annotation)
    return "..." if annotation is ... else name.rsplit(".", 1)[-1]


def _describe_class(name: str, thing: type) -> Iterator[str]:
    bases = dict.fromkeys(base.__name__ for base in (*thing.__bases__, *thing.__mro__[1:-1]))
    known = {base.__name__ for base in thing.__mro__ if _is_stable(base)}
    yield f"{name}: class ({', '.join(base for base in bases if base in known)})"
    if issubclass(thing, BaseModel):
        inherited = DatabaseSettings.model_fields if thing is not DatabaseSettings else {}
        for field, value in thing.model_fields.items():
            if field not in inherited:
                yield f"{name}.{field}: {_describe_field(value)}"
    elif is_dataclass(thing):
        yield from _describe_parameters(name, thing)


def _is_stable(base: type) -> bool:
    """Tell whether a base is one that callers know: no detail of another package's."""
    root = base.__module__.split(".")[0]
    return root in ("builtins", "chassis") or base.__name__ in ("BaseSettings", "DeclarativeBase")


def _describe_field(field: FieldInfo) -> str:
    limits = [repr(mark) for mark in field.metadata if type(mark).__module__ == "annotated_types"]
    if field.is_required():
        default = "required"
    elif field.default_factory is not None:
        default = "made anew"
    else:
        default = _write_default(field.default)
    return ", ".join([write_type(field.annotation), *limits, default])


def _write_default(value: object) -> str:
    return f"= {str(value) if isinstance(value, Path) else repr(value)}"


def _describe_mark(mark: object) -> str:
    """Name what stands in an Annotated type; a dependency by what it calls, and its scope."""
    called = getattr(mark, "dependency", None)
    if called is not None:
        name = getattr(called, "__name__", type(called).__name__)
        return f"Depends({name}, scope={getattr(mark, 'scope', None)!r})"
    return type(mark).__name__


def _describe_parameters(name: str, thing: Callable[..., Any]) -> Iterator[str]:
    """Yield a line for each: its place or `*`, name and type, and the default if it has one."""
    for place, parameter in enumerate(_signature(thing).parameters.values(), start=1):
        mark = f"{place}." if parameter.kind in POSITIONAL else "*"
        default = "" if parameter.default is parameter.empty else _write_default(parameter.default)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            mark, default = "*", "= any number"
        text = f"{mark} {parameter.name}: {write_type(parameter.annotation)} {default}"
        yield f"{name}({text.strip()})"


def _find_kind(thing: Any) -> str:
    """Return how a function is used: called, awaited, entered, iterated or asked for by a test."""
    if _is_fixture(thing):
        return f"fixture of each {thing._fixture_function_marker.scope}"
    inner = inspect.unwrap(thing)
    if inner is not thing and inspect.isasyncgenfunction(inner):
        return "async context manager"
    if inner is not thing and inspect.isgeneratorfunction(inner):
        return "context manager"
    if inspect.isasyncgenfunction(thing):
        return "async generator function"
    if inspect.isgeneratorfunction(thing):
        return "generator function"
    return "coroutine function" if inspect.iscoroutinefunction(thing) else "function"


def _is_fixture(thing: object) -> bool:
    return type(thing).__name__ == "FixtureFunctionDefinition"


def _signature(thing: Any) -> inspect.Signature:
    function = thing._get_wrapped_function() if _is_fixture(thing) else thing
    return inspect.signature(function)
