"""The base of backends that poll a queue: how certain it is which jobs the queue has, and whether it answers."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from instructrl.config.launcher import LauncherConfig
from launchers.job_table import Job

FIND_SECONDS = 5.0  # at most, between the queries by which it becomes certain whether a job exists
MAX_MISSES = 3  # consecutive answers without a job that has not recorded its end, or missing answers


class Queue(ABC):
    """Jobs in a queue that is polled, of which an answer may miss one, and which may not answer.

    Attributes:
        label: of the queue's jobs, in messages.
        command: that queries it.
    """

    label: str
    command: str

    def __init__(self, folder: Path, resources: LauncherConfig):
        self._folder, self._resources = folder.absolute(), resources
        self._misses: dict[str, int] = {}  # by attempt: consecutive answers without the job
        self._unanswered = 0
        self.poll_seconds = resources.poll_seconds

    @property
    def answers(self) -> bool:
        """False while the queue cannot be queried, so that states are those of before."""
        return not self._unanswered

    def _note_silence(self, line: str) -> None:
        """Print a line once the queue could not be queried repeatedly."""
        self._unanswered += 1
        if self._unanswered == MAX_MISSES:
            print(line, flush=True)

    def attach(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs of an earlier command, polling until it is certain which of them still exist."""
        self.refresh(jobs)
        while any(job.active and job.attempt in self._misses for job in jobs) and self.answers:
            time.sleep(min(self.poll_seconds, FIND_SECONDS))
            self.refresh(jobs)

    @abstractmethod
    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs."""
