"""The jobs of a sweep: `jobs.json`, and the same as a table on the screen."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from instructrl.errors import InputError
from instructrl.training.run_directory import write_atomically
from launchers.description import Launch

ACTIVE = ("waiting", "running")
STATES = ("new", *ACTIVE, "done", "failed", "interrupted", "cancelled", "lost", "refused")
_TAIL = 16_384  # bytes of a log that are searched for the error


@dataclass
class Job:
    """One line of the table.

    Attributes:
        id: of the process here (its number and when it began), or of the job on the cluster; empty before it has one.
        state: of STATES. `interrupted` saved what it had, `lost` left no exit code, `refused` never began.
        error: the last line that says why.
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

    def ended(self, code: int) -> None:
        """Note the exit code, and what its last words were."""
        self.exit_code = code
        self.state = "done" if code == 0 else "interrupted" if code == 75 else "failed"
        self.error = "" if code == 0 else last_error(self.log) or explained(code)


def explained(code: int) -> str:
    """An exit code in words."""
    if code == 137:
        return "killed (signal 9): out of memory, or by hand"
    return f"killed by signal {code - 128}" if 128 < code < 160 else f"exit code {code}"


def last_error(log: str) -> str:
    """Why a job ended, from its log: its own last line with `error:`, else SLURM's, else the last line.

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
    own = [line for line in lines if line.startswith("error:")]
    cluster = [line for line in lines if re.match(r"slurmstepd\S*: error: (?!\*\*\*)", line)]
    if not own and any(re.search("memory limit|oom.kill|out of memory", line, re.IGNORECASE) for line in cluster):
        return f"killed: it took more memory than launcher.slurm.memory_gb ({cluster[-1]})"
    return (own or cluster or lines or [""])[-1][:300]


def read_table(folder: Path) -> list[Job]:
    """The jobs of a sweep; none before it began.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "jobs.json"
    if not path.is_file():
        return []
    known = {entry.name for entry in fields(Job)}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        return [Job(**{key: value for key, value in entry.items() if key in known}) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; remove it, and what still runs will not be attached to") from None


def write_table(folder: Path, jobs: Sequence[Job], *, command: str) -> None:
    """Write jobs.json."""
    content = {"sweep": folder.name, "command": command, "jobs": [asdict(job) for job in jobs]}
    write_atomically(folder / "jobs.json", json.dumps(content, indent=2), elsewhere="go to another folder")


def joined(known: Sequence[Job], launches: Sequence[Launch]) -> list[Job]:
    """A job for every launch: the one that was started before for the same choices, or a new one."""
    before = {tuple(job.overrides): job for job in known}
    most = max((job.number for job in known), default=0)
    jobs = []
    for launch in launches:
        job = before.get(launch.overrides)
        if job is None:
            most += 1
            job = Job(number=most, name=launch.name, overrides=list(launch.overrides), run=launch.run)
        jobs.append(job)
    return jobs


def printed(jobs: Sequence[Job]) -> str:
    """The table as text: one line for each job, and one below for what went wrong."""
    rows = [("job", "id", "state", "exit", "choices")]
    for job in jobs:
        code = "" if job.exit_code is None else str(job.exit_code)
        rows.append((str(job.number), job.id.partition("@")[0] or "-", job.state, code, choices(job, jobs)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    errors = ["", *(f"     {job.error}  [{job.log}]" if job.error else "" for job in jobs)]
    for row, error in zip(rows, errors, strict=True):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))
        lines += [error] * bool(error)
    return "\n".join(line.rstrip() for line in lines)


def choices(job: Job, jobs: Sequence[Job]) -> str:
    """What tells a job from the others."""
    told = [word for word in job.overrides if len(jobs) == 1 or any(word not in other.overrides for other in jobs)]
    return " ".join(told)[:200] or job.name
