"""Metrics of jobs for Prometheus. Imported only if they are switched on."""

from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.exc import SQLAlchemyError

from ..db.errors import DatabaseUnavailableError
from ..db.sessions import Sessions, session_scope
from ..http.stopping import Stop
from .records import count_dead, count_jobs

REFRESH_SECONDS = 15.0
# Each process reads the same table: their numbers are no summands.
_NEWEST: Final = "livemostrecent"


class JobMetrics:
    """What the workers of this process run, and what stands in the table."""

    def __init__(self) -> None:
        self._runs = Counter("job_runs", "Runs of jobs.", ("name", "outcome"))
        self._durations = Histogram("job_duration_seconds", "How long runs took.", ("name",))
        self._due = _create_gauge("jobs_due", "Due, and not begun.")
        self._oldest = _create_gauge("jobs_oldest_due_seconds", "How long the oldest is due.")
        self._running = _create_gauge("jobs_running", "Running, in all processes.")
        self._dead = Gauge("jobs_dead", "Failed for the last time.", multiprocess_mode=_NEWEST)
        self._names: set[str] = set()

    def observe(self, name: str, outcome: str, seconds: float) -> None:
        """Count a run that has ended."""
        self._runs.labels(name, outcome).inc()
        self._durations.labels(name).observe(seconds)

    async def watch_table(self, sessions: Sessions, stop: Stop) -> None:
        """Bring the gauges up to date again and again, until the stop."""
        while not stop.is_set():
            # They stay as they are while the database is away: its own metrics tell.
            with suppress(SQLAlchemyError, DatabaseUnavailableError):
                await self.refresh(sessions)
            await stop.wait(REFRESH_SECONDS)

    async def refresh(self, sessions: Sessions) -> None:
        """Read the table once."""
        async with session_scope(sessions.read) as session:
            counts = {count.name: count for count in await count_jobs(session)}
            dead = await count_dead(session)
        now = datetime.now(UTC)
        self._dead.set(dead)
        self._names |= counts.keys()
        for name in self._names:
            count = counts.get(name)
            oldest = count.oldest if count else None
            self._due.labels(name).set(count.due if count else 0)
            self._running.labels(name).set(count.running if count else 0)
            self._oldest.labels(name).set((now - oldest).total_seconds() if oldest else 0)


@cache
def job_metrics() -> JobMetrics:
    """Return the metrics of this process; their names can be registered only once."""
    return JobMetrics()


def _create_gauge(name: str, meaning: str) -> Gauge:
    return Gauge(name, meaning, ("name",), multiprocess_mode=_NEWEST)
