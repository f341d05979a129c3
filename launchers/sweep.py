"""A sweep from its jobs to its end: attach to what runs, submit what is missing, wait, say how it went."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from instructrl.data.lock import only_process
from instructrl.errors import InputError, InterruptedRun
from instructrl.interruption import stop_if_asked
from instructrl.profiles import LauncherConfig
from launchers.description import Launch
from launchers.table import Job, choices, joined, printed, read_table, write_table

FOLDER = Path("multirun")
AGAIN, INTERRUPTED = 75, 130


class Place(Protocol):
    """Where jobs run."""

    poll_seconds: float

    def shown(self, launches: Sequence[Launch]) -> str:
        """What `submit` would run."""

    def submit(self, pairs: Sequence[tuple[Job, Launch]]) -> None:
        """Take jobs on, or set their state to `refused` with the error."""

    def look(self, jobs: Sequence[Job]) -> None:
        """Bring the states of jobs up to date."""

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """End what waits or runs."""


def place_of(resources: LauncherConfig, folder: Path) -> Place:
    """The place of a profile."""
    if resources.kind == "slurm":
        from launchers.slurm import Slurm

        return Slurm(folder, resources)
    if resources.kind == "tpu":
        from launchers.tpu_place import TpuPod

        return TpuPod(folder, resources)
    from launchers.local import Local

    return Local(folder, resources)


def sweep_name(jobs: Sequence[Sequence[str]], *, entry: str) -> str:
    """A name that follows from the choices: what varies, and a sum over all of them."""
    varying = [word.partition("=")[0] for word in jobs[0] if any(word not in job for job in jobs)]
    text = re.sub(r"[^A-Za-z0-9_.,]+", "_", ",".join(varying))[:60] or "one"
    total = hashlib.sha256(json.dumps([entry, sorted(map(list, jobs))]).encode()).hexdigest()[:8]
    return f"{entry}-{text}-{total}"


def run_sweep(launches: Sequence[Launch], name: str, *, command: str) -> int:
    """Run all jobs of a sweep; returns 0, or 1 for a failed job, 75 for one to go on with, 130 for ctrl-C."""
    resources, folder = launches[0].resources, FOLDER / name
    place = place_of(resources, folder)
    if resources.dry_run:
        print(place.shown(launches))
        return 0
    with only_process(folder, does="launches", remedy="end it with ctrl-C", elsewhere="go to another folder"):
        jobs = joined(read_table(folder), launches)
        return follow(place, jobs, launches, folder, command=command)


def follow(place: Place, jobs: list[Job], launches: Sequence[Launch], folder: Path, *, command: str) -> int:
    """Submit what is missing, wait for the end, print the table."""
    resources = launches[0].resources
    look(jobs, folder, resources, place)
    pairs = [(job, launch) for job, launch in zip(jobs, launches, strict=True) if missing(job)]
    attached, done = sum(job.active for job in jobs), len(jobs) - len(pairs) - sum(job.active for job in jobs)
    print(f"sweep {folder}: {len(jobs)} jobs, {done} done, {attached} still at work, {len(pairs)} to start", flush=True)
    for job, _ in pairs:
        job.launcher = resources.kind
    interrupted = False
    try:
        if pairs:
            place.submit(pairs)
        write_table(folder, jobs, command=command)
        if resources.wait or resources.kind != "slurm":  # elsewhere it is we who start the next job
            wait(jobs, folder, place, resources, command=command)
    except (KeyboardInterrupt, InterruptedRun):
        interrupted = True
        if resources.kind == "local" or resources.on_interrupt == "cancel":
            print("interrupted: ending the jobs, which save first", flush=True)
            place.interrupt(jobs)
        else:
            print("interrupted: the jobs go on; the same command attaches to them again", flush=True)
    write_table(folder, jobs, command=command)
    print(f"{printed(jobs)}\ntable: {folder / 'jobs.json'}", flush=True)
    again = sum(job.state == "interrupted" for job in jobs)
    if again:
        print(f"{again} of {len(jobs)} jobs to go on with: give the same command again", flush=True)
    if not interrupted and not any(job.active for job in jobs):
        print(comparison(folder, launches, jobs), end="", flush=True)
    return exit_code(jobs, interrupted=interrupted)


def comparison(folder: Path, launches: Sequence[Launch], jobs: Sequence[Job]) -> str:
    """Compare the runs of a sweep that trained or judged; the lines to print, none where there are no two."""
    if launches[0].command[0] not in ("train.py", "eval.py") or sum(job.state == "done" for job in jobs) < 2:
        return ""
    from instructrl.evaluation.compare import compare, told

    try:
        return f"\n{told(*compare(folder))}\n"
    except InputError as error:  # the runs may lie where only the jobs could reach them
        return f"not compared: {error}\n"


def look(jobs: Sequence[Job], folder: Path, resources: LauncherConfig, place: Place) -> None:
    """Bring all jobs up to date, each where it was started."""
    for kind in {job.launcher for job in jobs if job.active and job.launcher}:
        mine = [job for job in jobs if job.launcher == kind]
        if kind == resources.kind:
            place.look(mine)
        else:
            profile = LauncherConfig(name=kind, kind=kind)
            place_of(profile, folder).look(mine)


def wait(jobs: list[Job], folder: Path, place: Place, resources: LauncherConfig, *, command: str) -> None:
    """Look until all jobs have ended, and say what changes."""
    known = {job.number: (job.state, "") for job in jobs}
    while True:
        look(jobs, folder, resources, place)
        for job in jobs:
            if known[job.number] != (job.state, job.error):
                known[job.number] = job.state, job.error
                said = f": {job.error}  [{job.log}]" if job.error else ""
                print(f"job {job.number} ({choices(job, jobs)}) {job.state}{said}", flush=True)
                write_table(folder, jobs, command=command)
        if not any(job.active for job in jobs):
            return
        stop_if_asked()
        time.sleep(place.poll_seconds)


def missing(job: Job) -> bool:
    """Whether a job is to be submitted: it has not ended well, or what it made is gone."""
    return not job.active if job.state != "done" else "://" not in job.run and not Path(job.run).exists()


def exit_code(jobs: Sequence[Job], *, interrupted: bool) -> int:
    """What the sweep ends with."""
    fine = ("done", "waiting", "running", "interrupted", *(("cancelled",) if interrupted else ()))
    if any(job.state not in fine for job in jobs):
        return 1
    if interrupted:
        return INTERRUPTED
    return AGAIN if any(job.state == "interrupted" for job in jobs) else 0
