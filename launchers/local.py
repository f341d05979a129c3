"""Backend that runs each job in a process on this machine, a limited number at a time."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from instructrl.config.launcher import LauncherConfig
from launchers.exit_status import read_exit_code
from launchers.job import JobSpec, import_path
from launchers.job_table import Job


class Local:
    """Starts waiting jobs as others end. Jobs outlive this process and are identified by PID and start time."""

    poll_seconds = 0.3

    def __init__(self, folder: Path, resources: LauncherConfig):
        self._folder, self._resources = folder, resources
        self._waiting: list[tuple[Job, JobSpec]] = []

    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Return the command lines that would run."""
        return "\n".join(shlex.join(spec.command_line()) for spec in specs)

    def submit(self, pairs: Sequence[tuple[Job, JobSpec]]) -> None:
        """Queue jobs; `refresh` starts them."""
        for job, _ in pairs:
            job.log = str(self._folder / "logs" / f"{job.number:03}.log")
            job.id, job.state = "", "waiting"
        self._waiting += pairs

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs, and start waiting ones in place of those that ended."""
        for job in jobs:
            if job.id and job.active:
                self._refresh_job(job)
            elif job.state == "waiting" and not any(job is other for other, _ in self._waiting):
                job.state = "interrupted"  # the launcher that would have started it has ended
        while self._waiting and sum(job.state == "running" for job in jobs) < self._resources.jobs:
            self._start(*self._waiting.pop(0))

    def _refresh_job(self, job: Job) -> None:
        if is_alive(job.id):  # checked once: it may end at any moment
            return
        code = read_exit_code(self._outcome(job))
        if code is not None:
            job.record_exit(code)
        else:
            job.state, job.error = "lost", "its process was killed without recording an exit code"

    def _start(self, job: Job, spec: JobSpec) -> None:
        outcome, log = self._outcome(job), Path(job.log)
        outcome.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "launchers.exit_status", "run", str(outcome), *spec.command_line()]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **spec.environment}
        if paths := [*import_path(), *filter(None, [os.environ.get("PYTHONPATH")])]:
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        with log.open("ab") as file:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        job.id, job.state, job.exit_code, job.error = process_id(process.pid), "running", None, ""
        job.submissions += 1

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Stop running jobs: SIGTERM lets them save within the grace period, then SIGKILL."""
        self._waiting.clear()
        running = [job for job in jobs if job.state == "running"]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for job in running:
                if is_alive(job.id):
                    target = int(job.id.partition("@")[0])
                    os.killpg(target, number) if number == signal.SIGKILL else os.kill(target, number)
            end = time.monotonic() + (self._resources.grace_seconds if number == signal.SIGTERM else 10)
            while any(is_alive(job.id) for job in running) and time.monotonic() < end:
                time.sleep(0.1)
        self.refresh(jobs)

    def _outcome(self, job: Job) -> Path:
        return (self._folder / "outcomes" / f"{job.number:03}.json").absolute()


def process_id(pid: int) -> str:
    """Identify a process by PID and start time, since PIDs are reused."""
    try:
        return f"{pid}@{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return f"{pid}@0"


def is_alive(name: str) -> bool:
    """Return True if the identified process is running."""
    pid = int(name.partition("@")[0])
    try:
        return process_id(pid) == name and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
