"""The jobs of one application, which its sessions know: what may be enqueued, and whom it wakes."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ..db.session_guards import WriteSession

if TYPE_CHECKING:
    from .job import AnyJob
    from .schedule import Scheduled
    from .worker import Worker

# Where a session of an application has its registry.
REGISTRY = "chassis_jobs"
# And whom its commit wakes.
_WAKE = "chassis_jobs_wake"


class JobRegistry:
    """Jobs by their names. Raise ValueError for a name twice, TypeError for what is no job."""

    def __init__(self, jobs: Sequence["AnyJob"] = ()) -> None:
        self._jobs: dict[str, AnyJob] = {}
        # Those that a worker of this application runs, if not all.
        self.worked_queues: Collection[str] = ()
        # That of the application, while it is started.
        self.worker: Worker | None = None
        self.wake: Callable[[], object] = lambda: None
        for each in jobs:
            if not hasattr(each, "enqueue"):
                raise TypeError(f"create_app(jobs=…): {each!r} is no job: write @job above it")
            if each.name in self._jobs:
                raise ValueError(
                    f"create_app(jobs=…): there are two jobs {each.name}: @job(name=…) of one"
                )
            each.arguments_model  # noqa: B018  a wrong signature is an error at the start
            if each.schedule is not None:
                # Nobody passes any.
                each.dump_arguments({})
            self._jobs[each.name] = each

    def __getitem__(self, name: str) -> "AnyJob":
        return self._jobs[name]

    def __iter__(self) -> Iterator["AnyJob"]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    def names_by_queue(self) -> dict[str, list[str]]:
        """Return the names of the jobs of each queue."""
        found: dict[str, list[str]] = {}
        for each in self:
            found.setdefault(each.queue, []).append(each.name)
        return found

    def find_scheduled(self) -> list["Scheduled"]:
        """Return the jobs that have schedules, with them."""
        return [(each, each.schedule) for each in self if each.schedule is not None]

    def check(self, name: str) -> None:
        """Raise LookupError for a job that nobody would run."""
        if name not in self._jobs:
            raise LookupError(
                f"the job {name} is not registered, and would wait for ever: "
                f"create_app(…, jobs=(…, {name}))"
            )


def find_registry(session: AsyncSession) -> JobRegistry | None:
    """Return the jobs of the application that a session is of; a script's is of none."""
    found: Any = session.info.get(REGISTRY)
    return found if isinstance(found, JobRegistry | None) else JobRegistry()


def wake_after_commit(session: AsyncSession, registry: JobRegistry | None) -> None:
    """Wake the worker of this process once the session has committed."""
    if registry is not None:
        session.info[_WAKE] = registry.wake


@event.listens_for(WriteSession, "after_commit")
def _wake_worker(session: Session) -> None:
    # The end of a savepoint is no commit.
    if not session.in_nested_transaction() and (wake := session.info.pop(_WAKE, None)):
        wake()
