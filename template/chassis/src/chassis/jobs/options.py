"""What a job and its enqueue are told, and what is wrong with it."""

from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from types import UnionType
from typing import Annotated, Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class JobOptions(BaseModel):
    """What `@job` is told, and a row can hold."""

    model_config = ConfigDict(strict=True)

    retries: Annotated[int, Field(ge=0, le=10_000)]
    # As APP_JOBS_QUEUE_LIMITS can name it.
    queue: Annotated[str, Field(pattern=r"^[^\s,=]+$")]
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    timeout_seconds: Annotated[float, Field(gt=0)]


class Placing(BaseModel):
    """When a job is due, and what it is known by while it waits."""

    model_config = ConfigDict(strict=True)

    # A hundred years: PostgreSQL holds dates that Python can't read.
    delay: Annotated[timedelta, Field(le=timedelta(days=36_500))]
    key: Annotated[str, Field(min_length=1)] | None


def explain_validation(error: ValidationError) -> str:
    """Return what is wrong with which field, without its value."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
        for each in error.errors(include_input=False, include_url=False)
    )


def strip_annotation(annotation: Any) -> Any:
    """Return the class of an annotation, without its metadata and its parameters."""
    inner = getattr(annotation, "__origin__", annotation)
    return inner if hasattr(annotation, "__metadata__") else get_origin(annotation) or annotation


def is_class(kind: Any) -> bool:
    """Return whether values can be told to be of it: no union, no Protocol of types alone."""
    try:
        isinstance(None, kind)
    except TypeError:
        return False
    return kind is not UnionType


def is_same(one: Any, other: Any) -> bool:
    """Return whether a value that JSON brought back is the other one.

    In the hour that a change of summer time repeats or skips, Python has no moments equal of two
    time zones.
    """
    has_fields = isinstance(one, BaseModel) or is_dataclass(one)
    if type(one) not in (type(other).__mro__[:1] if has_fields else type(other).__mro__):
        return False
    match one:
        case datetime():
            return one.isoformat() == str(other.isoformat())
        case dict():
            return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
        case list() | tuple():
            return len(one) == len(other) and all(map(is_same, one, other))
        case BaseModel():
            return is_same(dict(one), dict(other))
        case _ if is_dataclass(one):
            names = [field.name for field in fields(one)]
            return all(is_same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)
