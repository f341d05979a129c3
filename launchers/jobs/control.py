"""Cancelling jobs of a sweep, and starting them again as its own command would."""

import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from instructrl.cli.compose import compose
from instructrl.cli.entry import compose_launcher
from instructrl.cli.folders import take_folders
from instructrl.config.launcher import LauncherConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, RunError
from instructrl.preemption import handle_signals
from instructrl.redaction import HIDDEN
from instructrl.storage.file_lock import exclusive_lock
from launchers.job import CHAINING, TRAINING, JobSpec
from launchers.job_table import Job, format_table, write_table
from launchers.jobs.settings import PROG, is_launcher_word
from launchers.jobs.sweep import Sweep, is_known
from launchers.sweep.plan import check_gpus, launcher_overrides
from launchers.sweep.runner import Table, follow, make_backend, needs_submission

LOOK_SECONDS = 0.5  # between looks at whether the jobs have ended
END_SECONDS = 30.0  # beyond the time to save, for a launcher or a cluster to say that a job has ended


def cancel(sweep: Sweep, numbers: Sequence[int], *, seconds: float) -> int:
    """End waiting and running jobs, which may save first, and print what became of them; returns 0.

    A launcher that monitors the sweep starts none of them, and keeps the others.

    Args:
        sweep: the sweep.
        numbers: of the jobs.
        seconds: that a local job has to save.

    Raises:
        InputError: a launcher is unknown, or the folder of the sweep cannot be written.
        RunError: a job has not ended.
    """
    active = active_jobs(sweep, numbers)
    if not active:
        print(f"sweep {sweep.folder}: none of these jobs is waiting or running")
        return 0
    for job in active:
        if not is_known(job.launcher):
            raise InputError(
                f"job: found {job.number}, of a launcher that is unknown here ({job.launcher}); end it there"
            )
        note_cancellation(sweep, job)
    deadline = time.monotonic() + seconds + END_SECONDS
    with nullcontext() if sweep.launching else lock(sweep, busy_hint="repeat this command"):
        remaining = active
        while remaining and time.monotonic() < deadline:
            for kind in sorted({job.launcher for job in remaining}):
                sweep.backend(kind).interrupt([job for job in remaining if job.launcher == kind and job.id])
            if sweep.launching:  # it records the states
                time.sleep(LOOK_SECONDS)
                sweep.refresh()
            remaining = active_jobs(sweep, numbers)
        if not sweep.launching:
            write_table(sweep.folder, sweep.jobs, command=sweep.command, entry=sweep.entry)
    chosen = {job.number for job in active}
    print(format_table([job for job in sweep.jobs if job.number in chosen]))
    if remaining:
        raise RunError(f"job {remaining[0].number} is still {remaining[0].state}; repeat this command")
    return 0


def lock(sweep: Sweep, *, busy_hint: str) -> AbstractContextManager[None]:
    """Return the lock of a sweep, which excludes its launcher."""
    return exclusive_lock(sweep.folder, activity="launches", busy_hint=busy_hint, write_hint="go to another folder")


def active_jobs(sweep: Sweep, numbers: Sequence[int]) -> list[Job]:
    """Return those of some jobs that wait or run."""
    return [job for job in sweep.jobs if job.number in numbers and job.active]


def note_cancellation(sweep: Sweep, job: Job) -> None:
    """Tell a launcher on this machine that a job is cancelled.

    Raises:
        InputError: the file cannot be written.
    """
    path = job.cancellation(sweep.folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room there") from None


def retry(sweep: Sweep, jobs: Sequence[Job], words: Sequence[str]) -> int:
    """Start jobs again that are not done, as the command of the sweep would; returns the same exit codes.

    With them, those that must succeed first and those that follow them, each at its turn.

    Args:
        sweep: the sweep.
        jobs: those to start again if they are neither done nor active.
        words: settings of the launcher that replace those of the command.

    Raises:
        InputError: the settings of the launcher are not known or cannot start a job after others, a job's are invalid,
            or the sweep is being launched.
    """
    again = [job for job in jobs if needs_submission(job)]
    if not again:
        print(f"sweep {sweep.folder}: none of these jobs has failed or was cancelled or interrupted")
        return 0
    chain = chain_of(sweep.jobs, again)
    resources = recorded_launcher(sweep, [job for job in chain if job.active or needs_submission(job)], words)
    for job in chain:
        if job.after and resources.kind not in CHAINING:
            raise InputError(
                f"launcher: found {resources.name}, but job {job.number} must follow job {job.after[0]}; allowed: "
                "launcher=local or a profile of SLURM"
            )
    places = {job.number: index for index, job in enumerate(chain)}
    after = [tuple(places[number] for number in job.after if number in places) for job in chain]
    specs = [replace(job_spec(job, resources), after=needed) for job, needed in zip(chain, after, strict=True)]
    with lock(sweep, busy_hint="end it with ctrl-C"), handle_signals():
        backend = make_backend(resources, sweep.folder)
        return follow(Table(sweep.folder, specs, backend, sweep.command), specs, backend, sweep.folder)


def chain_of(jobs: Sequence[Job], again: Sequence[Job]) -> list[Job]:
    """Return jobs that are started again, with those that must succeed first and those that wait for them.

    Args:
        jobs: all jobs of the sweep.
        again: those that are started again in any case.
    """
    known, chosen = {job.number for job in jobs}, {job.number for job in again}
    while True:
        chain = [job for job in jobs if job.number in chosen]
        restarted = {job.number for job in chain if needs_submission(job)}
        first = {number for job in chain for number in job.after} & known
        later = {job.number for job in jobs if restarted & set(job.after) and needs_submission(job)}
        if first | later <= chosen:
            return chain
        chosen |= first | later


def recorded_launcher(sweep: Sweep, jobs: Sequence[Job], words: Sequence[str]) -> LauncherConfig:
    """Return the settings of the launcher of a sweep's last command, with others in their place.

    Raises:
        InputError: they are not known, or are not those of the jobs.
    """
    given = {word.partition("=")[0] for word in words}
    recorded = [word for word in shlex.split(sweep.command) if is_launcher_word(word)]
    recorded = [word for word in recorded if word.partition("=")[0] not in given]
    for word in recorded:
        if HIDDEN in word:
            key = word.partition("=")[0]
            raise InputError(f"{key}: its value is confidential and not recorded; add {key}=... to {PROG} retry")
    resources = compose_launcher([*recorded, *words])[1]
    for job in jobs:
        if job.launcher not in ("", resources.kind) and "launcher" not in given:
            raise InputError(
                f"launcher: found {resources.name} in the last command of {sweep.folder}, but job {job.number} had "
                f"kind={job.launcher}; add launcher=PROFILE"
            )
    return replace(resources, sweep=sweep.folder.name)


def job_spec(job: Job, resources: LauncherConfig) -> JobSpec:
    """Return the spec of a job of the table, as its command made it.

    Raises:
        InputError: its settings are invalid, or its command is not recorded.
    """
    if not job.entry:
        raise InputError(
            f"job: found {job.number}, whose program an earlier version did not record; repeat its command"
        )
    distributed, added = bool(TRAINING & set(job.entry)), []
    if distributed:
        check_gpus(resources)
        take_folders(job.entry)
        config = compose("train", TrainConfig, job.overrides)
        added = launcher_overrides(config, job.overrides, resources, sweep=resources.sweep or "")
    command = (*job.entry, *job.overrides, *added)
    return JobSpec(command, job.run, job.name, tuple(job.overrides), resources, distributed)
