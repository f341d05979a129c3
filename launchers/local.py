"""Backend that runs each job in a process on this machine, a limited number at a time."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from instructrl.config.launcher import LauncherConfig
from launchers.job import JobSpec, import_path, shell_line
from launchers.job_table import SUBMITTED_AGAIN, Job

CANCELLED = "stopped by launchers.jobs cancel"


class Local:
    """Starts waiting jobs as others end. Jobs outlive this process and are identified by PID and start time."""

    poll_seconds = 0.3

    def __init__(self, folder: Path, resources: LauncherConfig):
        self._folder, self._resources = folder, resources
        self._waiting: list[tuple[Job, JobSpec]] = []
        self._later: list[tuple[Job, JobSpec, Sequence[Job]]] = []  # each after those at the end of its triple
        self._processes: dict[str, subprocess.Popen] = {}  # those that this process started, by job ID

    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Return the command lines that would run."""
        return "\n".join(shell_line(spec.command_line()) for spec in specs)

    def submit(self, pairs: Sequence[tuple[Job, JobSpec]], record: Callable[[], None]) -> None:
        """Queue jobs; `refresh` starts them."""
        for job, _ in pairs:
            job.begin_attempt(self._resources.kind, secrets.token_hex(4))
            job.log = str(self._folder / "logs" / f"{job.number:03}.log")
        record()
        self._waiting += pairs

    def submit_after(self, triples: Sequence[tuple[Job, JobSpec, Sequence[Job]]], record: Callable[[], None]) -> None:
        """Queue jobs for the time when other ones have succeeded; `refresh` starts them."""
        self.submit([(job, spec) for job, spec, _ in triples], record)
        self._waiting = self._waiting[: -len(triples)]
        self._later += triples

    def _release(self) -> None:
        """Move the jobs whose other jobs have succeeded to the waiting ones, and end those of which one has not."""
        for job, spec, needed in self._later:
            if any(other.active for other in needed):
                continue
            if all(other.state == "done" for other in needed):
                self._waiting.append((job, spec))
            else:
                resumes = all(other.state in ("done", "interrupted") for other in needed)
                job.state = "interrupted" if resumes else "cancelled"
        self._later = [triple for triple in self._later if any(other.active for other in triple[2])]

    def attach(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs that another process started."""
        for job in jobs:
            if job.state == "waiting":  # that process ended before it started the job, or before it recorded that
                job.id = find_process(str(job.outcome(self._folder)))
                job.state = "running" if job.id or job.outcome(self._folder).exists() else "interrupted"
        self.refresh(jobs)

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs, and start waiting ones in place of those that ended."""
        for job in jobs:
            if job.state == "running":
                self._refresh_job(job)
        self._release()
        self._leave_out_cancelled()
        while self._waiting and sum(job.state == "running" for job in jobs) < self._resources.jobs:
            self._start(*self._waiting.pop(0))

    def _refresh_job(self, job: Job) -> None:
        if job.id and is_alive(job.id):  # checked once: it may end at any moment
            return
        process = self._processes.pop(job.id, None)
        code = job.find_exit_code(self._folder)
        if code is None and process is not None and process.wait() >= 0:
            code = process.returncode  # it could not be recorded
        if code is not None:
            job.record_exit(code)
        else:
            job.state, job.error = "lost", "its process was killed without recording an exit code"
        if job.state != "done" and job.cancellation(self._folder).exists():
            job.state, job.error = "cancelled", CANCELLED

    def _leave_out_cancelled(self) -> None:
        """Cancel the waiting jobs that another process cancelled."""
        for job, _ in self._waiting:
            if job.cancellation(self._folder).exists():
                job.state, job.error = "cancelled", CANCELLED
        self._waiting = [pair for pair in self._waiting if pair[0].state == "waiting"]

    def _start(self, job: Job, spec: JobSpec) -> None:
        log = Path(job.log)
        outcome = str(job.outcome(self._folder))
        words = [sys.executable, "-m", "launchers.exit_status", "run", outcome, *spec.command_line()]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self._variables()}
        if paths := [*import_path(), *filter(None, [os.environ.get("PYTHONPATH")])]:
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                file.write(SUBMITTED_AGAIN.encode() if file.tell() else b"")
                file.flush()
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
                )
        except OSError as error:
            where = log if error.filename is None else error.filename
            job.state, job.error = "refused", f"{where}: cannot be written or started ({error.strerror})"
            return
        job.id, job.state = process_id(process.pid), "running"
        job.submissions += 1
        self._processes[job.id] = process

    def _variables(self) -> Mapping[str, str]:
        """Return additional environment variables of the processes."""
        return {}

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Stop running jobs: SIGTERM lets them save within the grace period, then SIGKILL."""
        for job in [*(job for job, _ in self._waiting), *(job for job, _, _ in self._later)]:
            job.state = "interrupted"
        self._waiting.clear()
        self._later.clear()
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


def process_id(pid: int) -> str:
    """Identify a process by PID and start time, since PIDs are reused."""
    try:
        return f"{pid}@{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return f"{pid}@0"


def find_process(word: str) -> str:
    """Identify the process that has a word in its command line; empty if there is none."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if word in process.cmdline() and process.pid != os.getpid():
                return process_id(process.pid)
    return ""


def is_alive(name: str) -> bool:
    """Return True if the identified process is running."""
    pid = int(name.partition("@")[0])
    try:
        return process_id(pid) == name and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
