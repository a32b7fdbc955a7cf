"""A function that becomes a job: what it is called with, and how it is enqueued."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from inspect import Parameter, iscoroutinefunction, signature
from typing import Any, Generic, ParamSpec, TypeVar, get_type_hints, overload

from fastapi.params import Depends
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.sessions import Sessions
from ..http.request import outgoing_headers
from ..settings import ChassisSettings
from .model import JobRecord, check_length
from .options import (
    JobOptions,
    Placing,
    explain_validation,
    is_class,
    is_same,
    strip_annotation,
)
from .queue import NewJob, insert_job
from .records import cancel_jobs, retry_jobs
from .registry import find_registry, wake_after_commit
from .schedule import Schedule

Parameters = ParamSpec("Parameters")
ModelT = TypeVar("ModelT", bound=BaseModel)
Function = Callable[Parameters, Awaitable[None]]
JobId = int

# What `enqueue` takes for itself.
_RESERVED = {"delay", "key"}
# What a model has, whose fields the arguments are.
_TAKEN = frozenset(dir(BaseModel))


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
_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True, validate_default=True)


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
        if not (iscoroutinefunction(function) and hasattr(function, "__name__")):
            raise TypeError(f"@job: {self.name or repr(function)} must be an `async def`")
        try:
            JobOptions.model_validate(self, from_attributes=True)
        except ValidationError as error:
            raise ValueError(f"@job: {self.name}: {explain_validation(error)}") from None
        check_length("name", self.name)
        check_length("queue", queue)

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
        A delay that has passed is none. Raise TypeError for arguments that the function does not
        take, or that JSON can't hold.
        """
        if not isinstance(session, AsyncSession):
            raise TypeError(f"{self.name}.enqueue: it takes an AsyncSession, not {session!r}")
        registry = find_registry(session)
        if registry is not None:
            registry.check(self.name)
        placing = self._validate(Placing, {"delay": delay or timedelta(), "key": key})
        check_length("key", key or "")
        new = NewJob(
            name=self.name,
            queue=self.queue,
            priority=self.priority,
            arguments=self.dump_arguments(arguments),
            context=outgoing_headers(),
            delay=max(placing.delay, timedelta()),
            key=placing.key,
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
        """Return arguments as JSON has them. Raise TypeError if one is wrong, without its value.

        Wrong is as well what would come back as another value: a secret, `datetime | str`.
        """
        model = self._validate(self.arguments_model, arguments)
        try:
            stored = model.model_dump(mode="json", by_alias=True, round_trip=True)
            loaded = self.load_arguments(stored)
        except (RetryableError, ValueError) as error:
            kind = type(error).__name__
            raise TypeError(f"{self.name}.enqueue: JSON can't hold an argument: {kind}") from None
        if changed := [name for name in loaded if not is_same(loaded[name], getattr(model, name))]:
            raise TypeError(
                f"{self.name}.enqueue: {', '.join(changed)}: JSON would bring back another value: "
                "pass an id, or a type that JSON can hold"
            )
        return stored

    def load_arguments(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return stored arguments as the function takes them.

        Raise RetryableError if it does not any more: a worker of the release before may.
        """
        try:
            model = self.arguments_model.model_validate(dict(stored))
        except ValidationError as error:
            raise RetryableError(
                f"its arguments are of another release: {explain_validation(error)}"
            ) from None
        return {name: getattr(model, name) for name in type(model).model_fields}

    def _validate(self, model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
        try:
            return model.model_validate(dict(values))
        except ValidationError as error:
            raise TypeError(f"{self.name}.enqueue: {explain_validation(error)}") from None

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
        for argument in fields:
            if argument in _TAKEN or argument.startswith("_"):
                raise TypeError(f"@job: {self.name}: Pydantic has a {argument} itself: rename it")
        return create_model(self.name, __config__=_STRICT, **fields)

    @cached_property
    def provided(self) -> dict[str, Any]:
        """The parameters that the worker has values for, with their types."""
        kinds = {
            name: strip_annotation(kind)
            for name, (kind, _) in self._parameters.items()
            if _is_provided(kind)
        }
        for name, kind in kinds.items():
            if not is_class(kind):
                raise TypeError(
                    f"@job: {self.name}: {name}: the worker has values of classes, and JSON can't "
                    f"hold {self._parameters[name][0]}"
                )
        return kinds

    @cached_property
    def _parameters(self) -> dict[str, tuple[Any, Any]]:
        try:
            hints = get_type_hints(self.function, include_extras=True)
        except NameError as error:
            raise TypeError(
                f"@job: {self.name}: {error}: import it, not `if TYPE_CHECKING` alone"
            ) from None
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


def _is_provided(annotation: Any) -> bool:
    """Return whether a parameter is no argument: JSON can't hold it, or a handler depends on it."""
    kind = strip_annotation(annotation)
    if isinstance(kind, type) and issubclass(kind, _PROVIDED):
        return True
    if any(isinstance(each, Depends) for each in getattr(annotation, "__metadata__", ())):
        return True
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return True
    return False
