"""The share of a command's episodes that one of several jobs has: the settings `jobs` and `job`.

An episode's number alone decides which job has it, and what happens in it, so that no division changes an episode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from instructrl.errors import InputError

MAX_JOBS = 1024


@dataclass(frozen=True)
class Share:
    """The share of job `job`, counted from 1, of `jobs`."""

    job: int
    jobs: int

    def ranges(self, counts: Sequence[int]) -> list[range]:
        """Return this job's episodes of each of several groups, which are divided as if they were in one row.

        Args:
            counts: number of episodes of each group.
        """
        start, stop = (sum(counts) * done // self.jobs for done in (self.job - 1, self.job))
        ends = list(accumulate(counts))
        return [
            range(max(start - end + count, 0), max(min(stop - end, 0) + count, 0))
            for count, end in zip(counts, ends, strict=True)
        ]


def share_of(config: Any) -> Share | None:
    """Return the share that a command's settings name; None if it does everything."""
    return None if config.job is None else Share(config.job, config.jobs)


def is_divided(config: Any) -> bool:
    """Return True if a command is to be divided among jobs, and is not yet one of them."""
    return getattr(config, "jobs", 1) > 1 and config.job is None


def check_share(jobs: int, job: int | None, *, episodes: int) -> None:
    """Raise InputError for more jobs than episodes, or a job that is none of them."""
    if jobs > episodes:
        raise InputError(f"jobs: found {jobs} for {episodes} episodes; allowed: 1 to {episodes}")
    if job is not None and job > jobs:
        raise InputError(f"job: found {job}; allowed: null, or one of 1 to jobs={jobs}")
