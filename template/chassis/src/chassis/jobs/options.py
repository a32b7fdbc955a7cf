"""What a job and its enqueue are told, and what is wrong with it."""

from datetime import timedelta
from types import UnionType
from typing import Annotated, Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class JobOptions(BaseModel):
    """What `@job` is told, and a row can hold; lengths are those of its columns."""

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
