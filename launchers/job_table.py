"""Job table of a sweep: `jobs.json`, and its text form."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from instructrl.cli.table import align
from instructrl.config.fields import with_current_name
from instructrl.errors import InputError
from instructrl.storage.atomic import write_atomically
from launchers.job import JobSpec

ACTIVE = ("waiting", "running")
STATES = ("new", *ACTIVE, "done", "failed", "interrupted", "cancelled", "lost", "refused")
_TAIL = 16_384  # bytes at the end of a log that are searched for an error


@dataclass
class Job:
    """One job of the table.

    Attributes:
        id: of the local process (PID and start time) or of the cluster's job; empty before it is submitted.
        state: one of STATES. `interrupted` saved its progress, `lost` recorded no exit code, `refused` never started.
        error: one line with the reason.
    """

    number: int
    name: str
    overrides: list[str]
    run: str
    launcher: str = ""
    id: str = ""
    log: str = ""
    state: str = "new"
    exit_code: int | None = None
    error: str = ""
    submissions: int = field(default=0)

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    def record_exit(self, code: int) -> None:
        """Set state and error from the exit code and the log."""
        self.exit_code = code
        self.state = "done" if code == 0 else "interrupted" if code == 75 else "failed"
        self.error = "" if code == 0 else last_error(self.log) or describe_exit_code(code)


def describe_exit_code(code: int) -> str:
    """Describe an exit code."""
    if code == 137:
        return "killed (signal 9): out of memory, or manually"
    return f"killed by signal {code - 128}" if 128 < code < 160 else f"exit code {code}"


def last_error(log: str) -> str:
    """Find the reason for a job's end in its log: its last line with `error:`, else SLURM's, else the last line.

    `log` may be a pattern, for the logs of several processes.
    """
    lines: list[str] = []
    for path in sorted(Path(log).parent.glob(Path(log).name)) if log else []:
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                lines += [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            continue
    own_errors = [line for line in lines if line.startswith("error:")]
    slurm_errors = [line for line in lines if re.match(r"slurmstepd\S*: error: (?!\*\*\*)", line)]
    if not own_errors and any(
        re.search("memory limit|oom.kill|out of memory", line, re.IGNORECASE) for line in slurm_errors
    ):
        return f"killed: it used more memory than launcher.slurm.memory_gb ({slurm_errors[-1]})"
    return (own_errors or slurm_errors or lines or [""])[-1][:300]


def read_table(folder: Path) -> list[Job]:
    """Read the jobs of a sweep; empty for a new one. Overrides with former names of settings get the current ones.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "jobs.json"
    if not path.is_file():
        return []
    keys = {entry.name for entry in fields(Job)}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        jobs = [Job(**{key: value for key, value in entry.items() if key in keys}) for entry in entries]
        for job in jobs:
            job.overrides = [with_current_name(word) for word in job.overrides]
        return jobs
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; remove it, and running jobs will not be attached to") from None


def write_table(folder: Path, jobs: Sequence[Job], *, command: str) -> None:
    """Write jobs.json."""
    content = {"sweep": folder.name, "command": command, "jobs": [asdict(job) for job in jobs]}
    write_atomically(folder / "jobs.json", json.dumps(content, indent=2), hint="go to another folder")


def merge_jobs(known_jobs: Sequence[Job], specs: Sequence[JobSpec]) -> list[Job]:
    """Return a job per spec: the known one with the same overrides, or a new one."""
    by_overrides = {tuple(job.overrides): job for job in known_jobs}
    last_number = max((job.number for job in known_jobs), default=0)
    jobs = []
    for spec in specs:
        job = by_overrides.get(spec.overrides)
        if job is None:
            last_number += 1
            job = Job(number=last_number, name=spec.name, overrides=list(spec.overrides), run=spec.run)
        jobs.append(job)
    return jobs


def format_table(jobs: Sequence[Job]) -> str:
    """Format the table: one line per job, followed by its error if there is one."""
    rows = [("job", "id", "state", "exit", "choices")]
    for job in jobs:
        code = "" if job.exit_code is None else str(job.exit_code)
        rows.append(
            (str(job.number), job.id.partition("@")[0] or "-", job.state, code, distinguishing_overrides(job, jobs))
        )
    errors = ["", *(f"     {job.error}  [{job.log}]" if job.error else "" for job in jobs)]
    return "\n".join(line.rstrip() for pair in zip(align(rows), errors, strict=True) for line in pair if line)


def distinguishing_overrides(job: Job, jobs: Sequence[Job]) -> str:
    """Return the overrides that distinguish a job from the others."""
    differing = [word for word in job.overrides if len(jobs) == 1 or any(word not in other.overrides for other in jobs)]
    return " ".join(differing)[:200] or job.name
