"""A function that becomes a job: what it is called with, and how it is enqueued."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from inspect import Parameter, iscoroutinefunction, signature
from typing import Any, Generic, ParamSpec, get_origin, get_type_hints, overload

from fastapi.params import Depends
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.sessions import Sessions
from ..http.request import outgoing_headers
from ..settings import ChassisSettings
from .model import JobRecord, check_length
from .queue import NewJob, insert_job
from .records import cancel_jobs, retry_jobs
from .registry import find_registry, wake_after_commit
from .schedule import Schedule

Parameters = ParamSpec("Parameters")
Function = Callable[Parameters, Awaitable[None]]
JobId = int

# What `enqueue` takes for itself.
_RESERVED = {"delay", "key"}


@dataclass(frozen=True)
class JobRun:
    """A run of a job, for a job that takes one: what it is known by, the first run or a later."""

    id: JobId
    attempt: int
    # If it fails, the job is dead.
    is_last: bool = False


class RetryableError(Exception):
    """A run failed as it may: no bug, it is repeated. The text is kept: no secrets in it."""


class NonRetryableError(Exception):
    """A job can't be done, however often it is tried: it is dead. The text is kept: no secrets."""


_PROVIDED = (Sessions, AsyncSession, ChassisSettings, JobRun)
_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Job(Generic[Parameters]):
    """An `async def` that can be enqueued; called directly it is the function itself."""

    def __init__(
        self,
        function: Function[Parameters],
        *,
        name: str | None,
        retries: int,
        queue: str,
        priority: int,
        timeout_seconds: float,
    ) -> None:
        self.function = function
        self.name = str(name or getattr(function, "__name__", ""))
        self.retries = retries
        self.queue = queue
        self.priority = priority
        self.timeout_seconds = timeout_seconds
        self.schedule: Schedule | None = None
        check_length("name", self.name)
        check_length("queue", queue)
        if not iscoroutinefunction(function):
            raise TypeError(f"@job: {self.name} must be an `async def`")

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Awaitable[None]:
        """Run the function here and now."""
        return self.function(*args, **kwargs)

    async def enqueue(
        self,
        session: AsyncSession,
        /,
        *,
        delay: timedelta | None = None,
        key: str | None = None,
        **arguments: Any,
    ) -> JobId:
        """Write the job down in the session's transaction; it runs after the commit.

        With a key, return the job that waits already, if one of this name and key has not begun.
        Raise TypeError for arguments that the function does not take.
        """
        registry = find_registry(session)
        if registry is not None:
            registry.check(self.name)
        check_length("key", key or "")
        new = NewJob(
            name=self.name,
            queue=self.queue,
            priority=self.priority,
            arguments=self.dump_arguments(arguments),
            context=outgoing_headers(),
            delay=delay or timedelta(),
            key=key,
        )
        job_id = await insert_job(session, new)
        wake_after_commit(session, registry)
        return job_id

    async def retry(self, session: AsyncSession, job_id: JobId) -> bool:
        """Make one that is dead, cancelled or waits due now. Return whether there is one.

        It has all its retries again.
        """
        found = await retry_jobs(session, JobRecord.name == self.name, JobRecord.id == job_id)
        wake_after_commit(session, find_registry(session))
        return bool(found)

    async def cancel(
        self, session: AsyncSession, job_id: JobId | None = None, *, key: str | None = None
    ) -> bool:
        """Cancel one that waits or runs, by its id or its key. Return whether there was one.

        One that runs is stopped within a third of `APP_JOBS_LEASE_SECONDS`, and can't commit.
        """
        if (job_id is None) == (key is None):
            raise TypeError(f"{self.name}.cancel takes either the id of a job or key=…")
        wanted = [JobRecord.name == self.name, JobRecord.finished_at.is_(None)]
        wanted.append(JobRecord.key == key if job_id is None else JobRecord.id == job_id)
        return bool(await cancel_jobs(session, *wanted))

    def dump_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments as JSON has them. Raise TypeError if one is wrong, without its value."""
        try:
            model = self.arguments_model.model_validate(dict(arguments))
        except ValidationError as error:
            raise TypeError(f"{self.name}.enqueue: {_describe(error)}") from None
        return model.model_dump(mode="json")

    def load_arguments(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return stored arguments as the function takes them.

        Raise RetryableError if it does not any more: a worker of the release before may.
        """
        try:
            model = self.arguments_model.model_validate(dict(stored))
        except ValidationError as error:
            raise RetryableError(
                f"its arguments are of another release: {_describe(error)}"
            ) from None
        return {name: getattr(model, name) for name in type(model).model_fields}

    @cached_property
    def arguments_model(self) -> type[BaseModel]:
        """What the arguments are checked by."""
        fields: dict[str, Any] = {
            name: (kind, ... if default is Parameter.empty else default)
            for name, (kind, default) in self._parameters.items()
            if name not in self.provided
        }
        if taken := _RESERVED & fields.keys():
            raise TypeError(f"@job: {self.name}: enqueue has a {min(taken)} itself: rename it")
        return create_model(self.name, __config__=_STRICT, **fields)

    @cached_property
    def provided(self) -> dict[str, Any]:
        """The parameters that the worker has values for, with their types."""
        return {
            name: _strip_annotation(kind)
            for name, (kind, _) in self._parameters.items()
            if _is_provided(kind)
        }

    @cached_property
    def _parameters(self) -> dict[str, tuple[Any, Any]]:
        hints = get_type_hints(self.function, include_extras=True)
        found = signature(self.function).parameters.values()
        for each in found:
            if each.name not in hints:
                raise TypeError(f"@job: {self.name}: {each.name} has no type")
            if each.kind not in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
                raise TypeError(f"@job: {self.name}: {each.name} can't be passed by its name")
        return {each.name: (hints[each.name], each.default) for each in found}


AnyJob = Job[...]


@overload
def job(function: Function[Parameters], /) -> Job[Parameters]: ...


@overload
def job(
    *,
    name: str | None = ...,
    retries: int = ...,
    queue: str = ...,
    priority: int = ...,
    timeout_seconds: float = ...,
) -> Callable[[Function[Parameters]], Job[Parameters]]: ...


def job(
    function: Function[Parameters] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int = 5,
    queue: str = "default",
    priority: int = 0,
    timeout_seconds: float = 300,
) -> Job[Parameters] | Callable[[Function[Parameters]], Job[Parameters]]:
    """Make a job of an `async def`; its `name`, by default the function's, stays with its rows.

    A run that raises, or takes longer than `timeout_seconds`, is repeated `retries` times, with
    pauses that grow. Of a queue the job of the smallest `priority` runs first.
    """

    def decorate(function: Function[Parameters]) -> Job[Parameters]:
        return Job(
            function,
            name=name,
            retries=retries,
            queue=queue,
            priority=priority,
            timeout_seconds=timeout_seconds,
        )

    return decorate if function is None else decorate(function)


def _describe(error: ValidationError) -> str:
    """Return what is wrong with arguments, without their values."""
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
        for each in error.errors(include_input=False, include_url=False)
    )


def _is_provided(annotation: Any) -> bool:
    """Return whether a parameter is no argument: JSON can't hold it, or a handler depends on it."""
    kind = _strip_annotation(annotation)
    if isinstance(kind, type) and issubclass(kind, _PROVIDED):
        return True
    if any(isinstance(each, Depends) for each in getattr(annotation, "__metadata__", ())):
        return True
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return True
    return False


def _strip_annotation(annotation: Any) -> Any:
    inner = getattr(annotation, "__origin__", annotation)
    return inner if hasattr(annotation, "__metadata__") else get_origin(annotation) or annotation
