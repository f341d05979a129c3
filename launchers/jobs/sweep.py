"""A sweep as its own files tell it: its jobs, with the states that the launcher itself would find."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from instructrl.cli.option_files import suggest
from instructrl.config.fields import format_value, leaves
from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError
from instructrl.storage.file_lock import is_locked
from instructrl.storage.json_file import read_json
from launchers.exit_status import read_exit_code
from launchers.job_table import Job, distinguishing_overrides, read_table
from launchers.jobs.settings import PROG
from launchers.local import Local
from launchers.queue import Queue
from launchers.sweep.runner import Backend, make_backend

TABLE = "jobs.json"
MAX_LISTED = 10  # names and jobs in a message
QUEUE_SECONDS = 2.0  # between the queries by which it becomes certain whether a job of a cluster exists


class Sweep:
    """A sweep whose jobs are looked at; nothing is submitted or written. The working directory is that of its command.

    Attributes:
        jobs: in the order of their numbers.
        command, entry: the last command of the sweep without passwords and tokens, and its program.
        launching: True while a process starts and monitors jobs of the sweep.
        doubts: why states may be out of date; empty if they are not.
    """

    def __init__(self, folder: Path, *, grace_seconds: float = 120.0) -> None:
        """Read the jobs and find their states.

        Args:
            folder: of the sweep, as its command names it: multirun/NAME.
            grace_seconds: that local jobs have to save when they are cancelled.

        Raises:
            InputError: the table is damaged.
        """
        self.folder, self._grace_seconds = folder, grace_seconds
        self._backends: dict[str, Backend] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the jobs again, and find their states.

        Raises:
            InputError: the table is damaged.
        """
        self.launching = is_locked(self.folder)  # first: what it writes later is read
        self.jobs = sorted(read_table(self.folder), key=lambda job: job.number)
        content = read_json(self.folder / TABLE)
        self.command, self.entry = str(content.get("command", "")), list(content.get("entry") or [])
        self.doubts: list[str] = []
        for kind in sorted({job.launcher for job in self.jobs if job.active}):
            self._refresh_kind(kind, [job for job in self.jobs if job.launcher == kind and job.active])

    def _refresh_kind(self, kind: str, jobs: Sequence[Job]) -> None:
        """Find the states of active jobs of one kind of launcher."""
        if self.launching:  # which knows why a job has no ID yet
            jobs = [job for job in jobs if job.id]
        if not is_known(kind):
            for job in jobs:
                if (code := read_exit_code(job.outcome(self.folder), job.id.partition("@")[0] or None)) is not None:
                    job.record_exit(code)
            self.doubts.append(f"launcher {kind} is unknown here: states of its jobs are as recorded")
            return
        seen = kind in self._backends
        backend = self.backend(kind)
        if self.launching or (seen and isinstance(backend, Queue)):  # which counts how often a job was not found
            backend.refresh(jobs)
        else:
            backend.attach(jobs)
        if isinstance(backend, Queue) and not backend.answers:
            self.doubts.append(
                f"{backend.command} does not answer here: states of {backend.label} jobs are as recorded"
            )

    def backend(self, kind: str) -> Backend:
        """Return the backend of a kind of launcher, which finds states and stops jobs, but starts none."""
        if kind not in self._backends:
            resources = LauncherConfig(name=kind, kind=kind, dry_run=True, poll_seconds=QUEUE_SECONDS)
            resources.grace_seconds = self._grace_seconds
            backend = make_backend(resources, self.folder)
            # A pod's jobs are local processes too; its own backend deletes the pod when they have ended.
            self._backends[kind] = Local(self.folder, resources) if isinstance(backend, Local) else backend
        return self._backends[kind]

    def find_job(self, text: str | None) -> Job:
        """Return the job that a text names: by its number, its ID or words of its choices; None names an only job.

        Raises:
            InputError: it names no job, or several.
        """
        found = self.jobs if text is None else self._matching(text)
        if len(found) == 1:
            return found[0]
        given = f"found {format_value(text or '')}, {'the words of several jobs' if found else 'no job'}"
        given = f"{'not set, with several jobs' if text is None else given} of {self.folder}"
        listed = [f"{job.number} ({distinguishing_overrides(job, self.jobs)})" for job in found or self.jobs]
        more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
        raise InputError(f"job: {given}; allowed: {', '.join(listed[:MAX_LISTED])}{more}")

    def _matching(self, text: str) -> list[Job]:
        """Return the jobs that a text may name."""
        tests = [
            lambda job: str(job.number) == text,
            lambda job: text in (job.id.partition("@")[0], job.name),
            lambda job: all(word in job.overrides for word in text.split()),
        ]
        return next((found for test in tests if (found := [job for job in self.jobs if test(job)])), [])


def is_known(kind: str) -> bool:
    """Return True for a kind of launcher of this version."""
    return kind in leaves(LauncherConfig)["kind"].metadata["choices"]


def enter(folder: str) -> Path:
    """Go to the directory of the sweeps' commands; returns the folder of the sweeps as these commands name it.

    Raises:
        InputError: there is no such folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(
            f"folder: found {format_value(folder)}, no folder; allowed: the folder multirun that a command with "
            "--multirun has written; go to where it was started, or give folder=PATH/multirun"
        )
    named = re.fullmatch(r"\.{0,2}", path.name) is None
    full = path.parent.resolve() / path.name if named else path.resolve()
    os.chdir(full.parent)
    return Path(full.name)


def sweep_names(folder: Path) -> list[str]:
    """Return the names of the sweeps in a folder, the last one to change first.

    Raises:
        InputError: there are none.
    """
    found = sorted(folder.glob(f"*/{TABLE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not found:
        inner = folder / "multirun"
        hint = f"; did you mean folder={inner.absolute()}?" if inner.is_dir() else ", as --multirun writes them"
        raise InputError(f"folder: found {folder.absolute()} without sweeps; allowed: a folder with NAME/{TABLE}{hint}")
    return [path.parent.name for path in found]


def sweep_folder(folder: Path, name: str | None) -> Path:
    """Return the folder of a sweep.

    Raises:
        InputError: there is no such sweep, or no name.
    """
    names = sweep_names(folder)
    if name in names:
        return folder / name
    if name is None:
        listed = f"{', '.join(names[:MAX_LISTED])}{', ...' if len(names) > MAX_LISTED else ''}"
        raise InputError(f"sweep: not set; allowed: {listed}; {PROG} list shows them")
    hint = suggest(name, names) if len(names) <= MAX_LISTED else suggest(name, names).partition("allowed")[0]
    hint = hint or f"{PROG} list shows the {len(names)} sweeps"
    raise InputError(f"sweep: found {format_value(name)}, no sweep of {folder.absolute()}; {hint}")
