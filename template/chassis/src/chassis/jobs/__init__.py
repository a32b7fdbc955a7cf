"""Jobs: work that is written down in a transaction, and done after it, in any process."""

from .job import Job, JobId, job
from .model import JobRecord, JobState

__all__ = ["Job", "JobId", "JobRecord", "JobState", "job"]
