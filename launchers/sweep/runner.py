"""Runs a sweep: attaches to running jobs, submits missing ones, waits, and reports the results."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from instructrl.cli.progress import ProgressBar
from instructrl.config.fields import with_former_name
from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError, InterruptedRun, shorten
from instructrl.preemption import sleep
from instructrl.storage.file_lock import exclusive_lock
from launchers.job import EVALUATION, TRAINING, JobSpec
from launchers.job_table import Job, distinguishing_overrides, format_table, merge_jobs, read_table, write_table
from launchers.kubernetes import jobset_manifests, no_submission

FOLDER = Path("multirun")
EXIT_RESUMABLE, EXIT_CTRL_C = 75, 130
LOG_TAIL, MAX_LINE = 4096, 40  # bytes read of a running job's log, and characters shown of its last line


class Backend(Protocol):
    """Interface of a launcher backend."""

    poll_seconds: float

    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Describe what `submit` would run."""

    def submit(self, pairs: Sequence[tuple[Job, JobSpec]], record: Callable[[], None]) -> None:
        """Submit jobs, or set their state to `refused` with the error.

        `record` writes the table. It is called once the jobs have the names of their attempts and before any of them
        starts, so that a later command finds them even if this process is killed meanwhile.
        """

    def submit_after(self, triples: Sequence[tuple[Job, JobSpec, Sequence[Job]]], record: Callable[[], None]) -> None:
        """Submit jobs as `submit`, each of which starts once all those at the end of its triple have succeeded."""

    def attach(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs of an earlier command, until it is certain which of them still exist."""

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs."""

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Stop waiting and running jobs."""


def make_backend(resources: LauncherConfig, folder: Path) -> Backend:
    """Create the backend of a profile.

    Raises:
        InputError: its jobs can be shown, but not submitted.
    """
    if resources.kind == "slurm":
        from launchers.slurm import Slurm

        return Slurm(folder, resources)
    if resources.kind == "tpu":
        from launchers.tpu.launcher import TpuBackend

        return TpuBackend(folder, resources)
    if resources.kind == "skypilot":
        from launchers.skypilot.launcher import SkyPilot

        return SkyPilot(folder, resources)
    if resources.kind == "kubernetes":
        raise no_submission(resources)
    from launchers.local import Local

    return Local(folder, resources)


def sweep_name(jobs: Sequence[Sequence[str]], *, entry: str) -> str:
    """Derive a sweep's name from its jobs; one that was started under former names of settings is found again."""
    name = name_of_overrides(jobs, entry=entry)
    former_name = name_of_overrides([[with_former_name(word) for word in job] for job in jobs], entry=entry)
    return former_name if (FOLDER / former_name).is_dir() and not (FOLDER / name).is_dir() else name


def name_of_overrides(jobs: Sequence[Sequence[str]], *, entry: str) -> str:
    """Join the varying keys and a hash of all overrides."""
    varying = [word.partition("=")[0] for word in jobs[0] if any(word not in job for job in jobs)]
    text = re.sub(r"[^A-Za-z0-9_.,]+", "_", ",".join(varying))[:60] or "one"
    total = hashlib.sha256(json.dumps([entry, sorted(map(list, jobs))]).encode()).hexdigest()[:8]
    return f"{entry}-{text}-{total}"


def run_sweep(specs: Sequence[JobSpec], name: str, *, command: str, compares: bool = True) -> int:
    """Run all jobs of a sweep; returns 0, or 1 if a job failed, 75 for an interrupted one or SIGTERM, 130 for ctrl-C.

    `compares`: compare their runs at the end; False for some jobs of a search, of which others follow.
    """
    resources, folder = specs[0].resources, FOLDER / name
    if resources.kind == "kubernetes":
        print(jobset_manifests(specs))
        return 0
    backend = make_backend(resources, folder)
    if resources.dry_run:
        print(backend.preview(specs))
        return 0
    with exclusive_lock(folder, activity="launches", busy_hint="end it with ctrl-C", write_hint="go to another folder"):
        return follow(Table(folder, specs, backend, command), specs, backend, folder, compares=compares)


class Table:
    """The table of a sweep: jobs of this command, and those of earlier ones, each updated by the backend it ran on."""

    def __init__(self, folder: Path, specs: Sequence[JobSpec], backend: Backend, command: str):
        """Read the table and add the jobs that are new.

        Raises:
            InputError: the file is damaged.
        """
        known, spec = read_table(folder), specs[0]
        self.jobs = merge_jobs(known, specs)  # of this command
        self._needed = [
            (job, self.jobs[index]) for job, spec in zip(self.jobs, specs, strict=True) for index in spec.after
        ]
        self.others = [job for job in known if not any(job is own for own in self.jobs)]
        self._folder, self._command, self._entry, self._kind = folder, command, spec.entry, spec.resources.kind
        self._backends = {self._kind: backend}

    def write(self) -> None:
        """Write jobs.json."""
        jobs = sorted([*self.jobs, *self.others], key=lambda job: job.number)
        write_table(self._folder, jobs, command=self._command, entry=self._entry)

    def attach(self) -> None:
        """Update the states of all jobs at the start of a command."""
        for backend, jobs in self._active_jobs():
            backend.attach(jobs)
        self._explain()

    def refresh(self) -> None:
        """Update the states of all jobs."""
        for backend, jobs in self._active_jobs():
            backend.refresh(jobs)
        self._explain()

    def _explain(self) -> None:
        """Name the job that did not succeed as the reason why one that needs it was not started."""
        for job, needed in self._needed:
            if job.state in ("cancelled", "refused") and not needed.active and needed.state not in ("new", "done"):
                job.error = f"not started, as job {needed.number} did not succeed"

    def _active_jobs(self) -> list[tuple[Backend, list[Job]]]:
        """Return the jobs of each backend that has active ones."""
        everything = [*self.jobs, *self.others]
        kinds = {job.launcher for job in everything if job.active and job.launcher}
        for kind in kinds - set(self._backends):
            self._backends[kind] = make_backend(LauncherConfig(name=kind, kind=kind), self._folder)
        return [(self._backends[kind], [job for job in everything if job.launcher == kind]) for kind in sorted(kinds)]


def follow(table: Table, specs: Sequence[JobSpec], backend: Backend, folder: Path, *, compares: bool = True) -> int:
    """Submit missing jobs, wait for all to end, print the table, and compare the runs."""
    resources, jobs = specs[0].resources, table.jobs
    table.attach()
    pairs = [(job, spec) for job, spec in zip(jobs, specs, strict=True) if needs_submission(job)]
    attached, done = sum(job.active for job in jobs), len(jobs) - len(pairs) - sum(job.active for job in jobs)
    others = f"; {len(table.others)} more of earlier commands" if table.others else ""
    print(
        f"sweep {folder}: {len(jobs)} jobs, {done} done, {attached} still active, {len(pairs)} to start{others}",
        flush=True,
    )
    for job, spec in pairs:
        if spec.results:
            print(f"job {job.number} writes {', '.join(spec.results)}", flush=True)
    interruption: KeyboardInterrupt | InterruptedRun | None = None
    try:
        first = [(job, spec) for job, spec in pairs if not spec.after]
        if first:
            backend.submit(first, table.write)
        later = [(job, spec, [jobs[index] for index in spec.after]) for job, spec in pairs if spec.after]
        if later:
            backend.submit_after(later, table.write)
        table.write()
        if resources.wait or resources.kind not in ("slurm", "skypilot"):  # others start jobs from this process
            wait(table, backend)
    except (KeyboardInterrupt, InterruptedRun) as error:
        interruption = error
        interrupted = f"interrupted {error}".rstrip()  # ctrl-C has no text
        if resources.kind == "local" or resources.on_interrupt == "cancel":
            print(f"{interrupted}: stopping the jobs, which save first", flush=True)
            backend.interrupt(jobs)
        else:
            print(f"{interrupted}: the jobs continue; the same command attaches to them again", flush=True)
    table.write()
    print(f"{format_table(jobs)}\ntable: {folder / 'jobs.json'}", flush=True)
    again = sum(job.state == "interrupted" for job in jobs)
    if again:
        print(f"{again} of {len(jobs)} jobs were interrupted: the same command resumes them", flush=True)
    if compares and interruption is None and not any(job.active for job in jobs):
        print(comparison(folder, specs, jobs), end="", flush=True)
    for job, spec in zip(jobs, specs, strict=True):
        if spec.results and job.state == "done":
            print("\n".join(spec.results), flush=True)
    return exit_code(jobs, interruption)


def comparison(folder: Path, specs: Sequence[JobSpec], jobs: Sequence[Job]) -> str:
    """Compare the runs of a sweep of trainings or evaluations; returns text, empty for fewer than two runs."""
    done = [job for job, spec in zip(jobs, specs, strict=True) if job.state == "done" and not spec.after]
    if not (TRAINING | EVALUATION) & set(specs[0].command[:2]) or len({job.run for job in done}) < 2:
        return ""
    from instructrl.evaluation.compare.__main__ import compare, summary

    try:
        return f"\n{summary(*compare(folder))}\n"
    except InputError as error:  # only the jobs may have access to the runs
        return f"not compared: {error}\n"


def wait(table: Table, backend: Backend) -> None:
    """Poll until all jobs have ended, and report changes."""
    known = {job.number: (job.state, "") for job in table.jobs}
    ended = sum(not job.active for job in table.jobs)
    with ProgressBar(description="sweep", total=len(table.jobs), initial=ended, unit="jobs") as bar:
        while True:
            table.refresh()
            for job in table.jobs:
                if known[job.number] != (job.state, job.error):
                    known[job.number] = job.state, job.error
                    reason = f": {job.error}  [{job.log}]" if job.error else ""
                    bar.write(f"job {job.number} ({distinguishing_overrides(job, table.jobs)}) {job.state}{reason}")
                    sys.stdout.flush()
                    table.write()
            ended = sum(not job.active for job in table.jobs)
            if ended > bar.n:  # the rate is that since the last call, which must not be the last look
                bar.update(ended - bar.n)
            if not any(job.active for job in table.jobs):
                return
            if not bar.disable:
                bar.set_postfix_str("; ".join(progress_of(job) for job in table.jobs if job.state == "running"))
            sleep(backend.poll_seconds)


def progress_of(job: Job) -> str:
    """The number of a running job and the last line of its log, shortened."""
    try:
        with Path(job.log).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:  # not on this machine, or not yet
        lines = []
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"{job.number}: {shorten(' '.join(last.split()), MAX_LINE)}" if last else f"{job.number} running"


def needs_submission(job: Job) -> bool:
    """Return True if a job must be submitted: it has not succeeded, or its output is missing."""
    return not job.active if job.state != "done" else "://" not in job.run and not Path(job.run).exists()


def exit_code(jobs: Sequence[Job], interruption: KeyboardInterrupt | InterruptedRun | None = None) -> int:
    """Return the exit code of the sweep, whose command was maybe interrupted."""
    successful = ("done", "waiting", "running", "interrupted", *(("cancelled",) if interruption else ()))
    if any(job.state not in successful for job in jobs):
        return 1
    if interruption is not None:
        return EXIT_CTRL_C if isinstance(interruption, KeyboardInterrupt) else EXIT_RESUMABLE
    return EXIT_RESUMABLE if any(job.state == "interrupted" for job in jobs) else 0
