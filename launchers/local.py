"""On this machine: each job in a process of its own, so many at a time."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from instructrl.profiles import LauncherConfig
from launchers.description import ROOT, Launch
from launchers.ending import noted
from launchers.table import Job


class Local:
    """Starts waiting jobs as others end. They outlive this process, and are found again by number and birth."""

    poll_seconds = 0.3

    def __init__(self, folder: Path, resources: LauncherConfig):
        self._folder, self._resources = folder, resources
        self._waiting: list[tuple[Job, Launch]] = []

    def shown(self, launches: Sequence[Launch]) -> str:
        """What would run."""
        return "\n".join(shlex.join(launch.words()) for launch in launches)

    def submit(self, pairs: Sequence[tuple[Job, Launch]]) -> None:
        """Take jobs on; they begin with the next looks."""
        for job, _ in pairs:
            job.log = str(self._folder / "logs" / f"{job.number:03}.log")
            job.id, job.state = "", "waiting"
        self._waiting += pairs

    def look(self, jobs: Sequence[Job]) -> None:
        """See which have ended, and start others in their place."""
        for job in jobs:
            if job.id and job.active:
                self._see(job)
            elif job.state == "waiting" and not any(job is other for other, _ in self._waiting):
                job.state = "interrupted"  # the launcher that would have started it is no more
        while self._waiting and sum(job.state == "running" for job in jobs) < self._resources.jobs:
            self._start(*self._waiting.pop(0))

    def _see(self, job: Job) -> None:
        if alive(job.id):  # asked once: it may end at any moment
            return
        code = noted(self._outcome(job))
        if code is not None:
            job.ended(code)
        else:
            job.state, job.error = "lost", "its process was killed and left no exit code"

    def _start(self, job: Job, launch: Launch) -> None:
        outcome, log = self._outcome(job), Path(job.log)
        outcome.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "launchers.ending", "run", str(outcome), *launch.words()]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **launch.environment, "PYTHONPATH": paths}
        with log.open("ab") as file:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        job.id, job.state, job.exit_code, job.error = identity(process.pid), "running", None, ""
        job.submissions += 1

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """End what runs: it saves first, if it does so within the grace period."""
        self._waiting.clear()
        running = [job for job in jobs if job.state == "running"]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for job in running:
                if alive(job.id):
                    target = int(job.id.partition("@")[0])
                    os.killpg(target, number) if number == signal.SIGKILL else os.kill(target, number)
            end = time.monotonic() + (self._resources.grace_seconds if number == signal.SIGTERM else 10)
            while any(alive(job.id) for job in running) and time.monotonic() < end:
                time.sleep(0.1)
        self.look(jobs)

    def _outcome(self, job: Job) -> Path:
        return (self._folder / "outcomes" / f"{job.number:03}.json").absolute()


def identity(pid: int) -> str:
    """A process by its number and when it began: numbers come again."""
    try:
        return f"{pid}@{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return f"{pid}@0"


def alive(name: str) -> bool:
    """Whether that process still works."""
    pid = int(name.partition("@")[0])
    try:
        return identity(pid) == name and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
