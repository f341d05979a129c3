"""Job table of a sweep: `jobs.json`, and its text form."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from instructrl.cli.table import align
from instructrl.config.fields import with_current_name
from instructrl.errors import InputError
from instructrl.redaction import redact
from instructrl.storage.atomic import write_atomically
from instructrl.storage.json_file import read_json
from launchers.exit_status import read_exit_code, unwritten_exit_code
from launchers.job import JobSpec

ACTIVE = ("waiting", "running")
STATES = ("new", *ACTIVE, "done", "failed", "interrupted", "cancelled", "lost", "refused")
SUBMITTED_AGAIN = "--- submitted again ---\n"  # a line in a log that several submissions of a job share
SLURM_LINE = re.compile(r"(slurmstepd|srun)\S*: ")
_TAIL = 16_384  # bytes at the end of a log that are searched for an error


@dataclass
class Job:
    """One job of the table.

    Attributes:
        number: unique in the table, and never given to another job.
        id: of the local process (PID and start time) or of the cluster's job; empty before it is submitted.
        state: one of STATES. `interrupted` saved its progress, `lost` recorded no exit code, `refused` never started.
        error: one line with the reason.
        entry: what its overrides are given to, like ["train.py"]; empty in a table of an earlier version.
        attempt: unique name of its last submission, which tells the outcomes of jobs and of their attempts apart.
        after: numbers of the jobs that must succeed first.
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
    entry: list[str] = field(default_factory=list)
    attempt: str = ""
    after: list[int] = field(default_factory=list)

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    def begin_attempt(self, launcher: str, token: str) -> None:
        """Wait to be submitted under a new name: number, digest of what it runs, and token of the submission."""
        content = json.dumps([self.entry, self.overrides, self.run])
        self.attempt = f"{self.number:03}-{hashlib.sha256(content.encode()).hexdigest()[:8]}-{token}"
        self.launcher, self.id, self.log, self.state, self.exit_code, self.error = launcher, "", "", "waiting", None, ""

    def outcome(self, folder: Path) -> Path:
        """Return the file in which its exit code is recorded, in the folder of its sweep."""
        return (folder / "outcomes" / f"{self.attempt or f'{self.number:03}'}.json").absolute()

    def cancellation(self, folder: Path) -> Path:
        """Return the file that another process makes to cancel it, in the folder of its sweep."""
        return self.outcome(folder).with_suffix(".cancelled")

    def find_exit_code(self, folder: Path) -> int | None:
        """Return the exit code that it recorded, in its outcome or else as the last line of its log; None if none."""
        outcome, process = self.outcome(folder), self.id.partition("@")[0]
        code = read_exit_code(outcome, process or None)
        last_lines = [lines[-1] for lines in tails(self.log) if lines] if code is None else []
        return next((found for line in last_lines if (found := unwritten_exit_code(outcome, line)) is not None), code)

    def record_exit(self, code: int) -> None:
        """Set state and error from the exit code and the log."""
        self.exit_code = code
        self.state = "done" if code == 0 else "interrupted" if code == 75 else "failed"
        self.error = "" if code == 0 else redact(reason_for_exit(code, self.log))


def describe_exit_code(code: int) -> str:
    """Describe an exit code."""
    if code == 137:
        return "killed (signal 9): out of memory, or manually"
    return f"killed by signal {code - 128}" if 128 < code < 160 else f"exit code {code}"


def reason_for_exit(code: int, log: str) -> str:
    """Find the reason for a job's end in its log: its last `error:`, else SLURM's, else the last line.

    A job that a signal killed had no time to say why: what it wrote before is no reason, unless an error is the last
    thing that one of its processes wrote (the others are killed then).

    Args:
        code: its exit code.
        log: a path, or a pattern for the logs of several processes.
    """
    logs = tails(log)
    lines = [line for each in logs for line in each]
    slurm_errors = [line for line in lines if re.match(r"slurmstepd\S*: error: (?!\*\*\*(?!.* DUE TO ))", line)]
    killed = 128 < code < 160
    if killed:
        lines = [each[-1] for each in ([line for line in each if not SLURM_LINE.match(line)] for each in logs) if each]
    own_errors = [line for line in lines if line.startswith("error:")]
    if not own_errors and any(
        re.search("memory limit|oom.kill|out of memory", line, re.IGNORECASE) for line in slurm_errors
    ):
        return f"killed: it used more memory than launcher.slurm.memory_gb ({slurm_errors[-1]})"
    if own_errors or slurm_errors or (lines and not killed):
        return (own_errors or slurm_errors or lines)[-1][:300]
    return describe_exit_code(code)


def tails(log: str) -> list[list[str]]:
    """Return the last lines of each log that matches a pattern."""
    return [tail(path) for path in sorted(Path(log).parent.glob(Path(log).name))] if log else []


def tail(path: Path) -> list[str]:
    """Return the last lines of a log since its last submission, without empty ones; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.rpartition(SUBMITTED_AGAIN)[2].splitlines() if line.strip()]


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
        entries = read_json(path)["jobs"]
        jobs = [Job(**{key: value for key, value in entry.items() if key in keys}) for entry in entries]
        for job in jobs:
            job.overrides = [with_current_name(word) for word in job.overrides]
            job.after = [int(number) for number in job.after]
        return jobs
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; remove it, and running jobs will not be attached to") from None


def write_table(folder: Path, jobs: Sequence[Job], *, command: str, entry: Sequence[str] = ()) -> None:
    """Write jobs.json, with the last command and its entry, which tells other programs' jobs apart."""
    rows = [asdict(job) for job in jobs]
    content = {"sweep": folder.name, "command": command, "entry": list(entry), "jobs": rows}
    write_atomically(folder / "jobs.json", json.dumps(content, indent=2), hint="go to another folder")


def merge_jobs(known_jobs: Sequence[Job], specs: Sequence[JobSpec]) -> list[Job]:
    """Return a job per spec: the known one with the same overrides of the same command, or a new one."""
    known = {(tuple(job.entry), tuple(job.overrides)): job for job in known_jobs}
    last_number = max((job.number for job in known_jobs), default=0)
    jobs = []
    for spec in specs:
        job = known.get((spec.entry, spec.overrides)) or known.get(((), spec.overrides))
        if job is None:
            last_number += 1
            job = Job(last_number, spec.name, list(spec.overrides), spec.run)
        job.entry = list(spec.entry)
        jobs.append(job)
    for job, spec in zip(jobs, specs, strict=True):
        job.after = [jobs[index].number for index in spec.after]
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
    """Return the overrides that distinguish a job from the others of its program, or from all if it is the only one."""
    same = [other for other in jobs if other.entry == job.entry]
    others = same if len(same) > 1 else jobs
    shared = set.intersection(*(set(other.overrides) for other in others)) if len(others) > 1 else set()
    differing = [word for word in job.overrides if word not in shared]
    return " ".join(differing)[:200] or job.name
