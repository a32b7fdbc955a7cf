"""Jobs: work that is written down in a transaction, and done after it, in any process."""

from .job import Job, JobId, JobRun, NonRetryableError, RetryableError, job
from .model import JobRecord, JobState
from .schedule import JobSchedule, every

__all__ = [
    "Job",
    "JobId",
    "JobRecord",
    "JobRun",
    "JobSchedule",
    "JobState",
    "NonRetryableError",
    "RetryableError",
    "every",
    "job",
]
