"""Backend that runs each job as a managed job of SkyPilot, started with the user's own `sky`.

SkyPilot finds the machines, copies the code, and starts a job again after a preemption or when it was interrupted. Each
submission has a name of its own, by which its job is found when `sky`, or the process that called it, ended without
saying whether it started the job. States are those of `sky jobs queue`.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError, RunError, shorten
from instructrl.redaction import redact
from launchers.job import JobSpec, checkout, shell_line
from launchers.job_table import Job, merge_jobs
from launchers.local import find_process
from launchers.queue import MAX_MISSES, Queue
from launchers.skypilot.commands import (
    LAUNCH_SECONDS,
    UNCERTAIN,
    answer,
    cancel,
    launch_words,
    query_jobs,
    read_log,
)
from launchers.skypilot.task import END, check_output, check_settings, passed_secrets, task_yaml

WAITING, RUNNING = ("PENDING", "SUBMITTED", "STARTING"), ("RUNNING", "WINDING_DOWN", "RECOVERING", "CANCELLING")
FAILURES = {
    "FAILED_SETUP": "its set-up failed",
    "FAILED_PRECHECKS": "SkyPilot refuses it",
    "FAILED_NO_RESOURCE": "no cloud has these resources now; change launcher.skypilot.infra or accelerators",
    "FAILED_CONTROLLER": "SkyPilot's controller failed",
}
NODE_PREFIX = re.compile(r"^\([^()]*\bpid=\d+[^()]*\) ?")  # of each line that a node wrote


class SkyPilot(Queue):
    """Jobs of a sweep as managed jobs of SkyPilot."""

    label, command = "SkyPilot", "sky jobs queue"

    def __init__(self, folder: Path, resources: LauncherConfig):
        """Check the settings.

        Raises:
            InputError: they contradict each other.
        """
        check_settings(resources.skypilot)
        super().__init__(folder, resources)

    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Return each job's task and the command that starts it.

        Raises:
            InputError: there is no checkout whose code the nodes would get, or they do not get a folder of settings.
        """
        lines = []
        for job, spec in zip(merge_jobs([], specs), specs, strict=True):
            job.begin_attempt("skypilot", "SUBMISSION")
            words = launch_words(self._path(job), passed_secrets(self._resources.skypilot))
            lines += [f"# {shell_line(['sky', *words])}", task_yaml(spec, name_of(job), checkout()).rstrip(), "---"]
        return "\n".join(lines[:-1])

    def submit(self, pairs: Sequence[tuple[Job, JobSpec]], record: Callable[[], None]) -> None:
        """Start jobs; once one is refused, so are those after it, which have the same resources.

        Raises:
            InputError: their output would be lost with the nodes, or these do not get the code or a folder of settings.
        """
        code, token = checkout(), secrets.token_hex(8)
        for _, spec in pairs:
            check_output(spec)
        tasks = []
        for index, (job, spec) in enumerate(pairs):
            job.begin_attempt("skypilot", f"{token}.{index}")
            tasks.append((self._path(job), task_yaml(spec, name_of(job), code)))
        for path, text in tasks:
            write_private(path, text)
        record()
        reason = ""
        for job, _ in pairs:
            reason = reason or self._launch(job)
            if reason:
                self._refuse(job, reason)
        self.refresh([job for job, _ in pairs])

    def _path(self, job: Job) -> Path:
        """Return the path of a job's task."""
        return self._folder / "skypilot" / f"{job.attempt}.yaml"

    def _launch(self, job: Job) -> str:
        """Start a job; returns why SkyPilot refused it, empty if it did not, or may not have."""
        words = launch_words(self._path(job), passed_secrets(self._resources.skypilot))
        try:
            answer(*words, seconds=LAUNCH_SECONDS)
            return ""
        except RunError as error:
            job.error = str(error)
        if UNCERTAIN.search(job.error):
            return ""
        try:
            return job.error if newest(query_jobs(), job) is None else ""
        except RunError:
            return job.error

    def _set_id(self, job: Job, record: dict[str, Any]) -> None:
        job.id, job.error = str(record.get("job_id")), ""
        job.log = str(self._folder / "skypilot" / f"{job.attempt}.log")
        job.submissions += 1

    def _refuse(self, job: Job, reason: str) -> None:
        log = self._path(job).with_suffix(".log")
        with suppress(OSError):
            log.write_text(reason + "\n", encoding="utf-8")
        job.state, job.error, job.log, job.id, job.exit_code = "refused", reason, str(log), "", None

    def submit_after(self, triples: Sequence[tuple[Job, JobSpec, Sequence[Job]]], record: Callable[[], None]) -> None:
        """Refuse to submit jobs that wait for others: managed jobs cannot depend on each other."""
        raise InputError(
            f"launcher.then: found {self._resources.then} with launcher={self._resources.name}; allowed: null, and "
            "eval.py once the trainings are done"
        )

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs from SkyPilot's queue."""
        active = [job for job in jobs if job.active]
        if not active:
            return
        try:
            records = query_jobs()
        except RunError as error:
            self._note_silence(f"{error}; the jobs continue, and SkyPilot is asked until it answers")
            return
        self._unanswered = 0
        for job in active:
            record = newest(records, job)
            if record is None:
                self._miss(job)
                continue
            self._misses.pop(job.attempt, None)
            if not job.id:
                self._set_id(job, record)
            self._set_state(job, str(record.get("status")), record)

    def _miss(self, job: Job) -> None:
        """Count an answer without a job, which may still be on its way to SkyPilot."""
        if not job.id and find_process(str(self._path(job))):  # the `sky` of a launcher that was killed
            return
        self._misses[job.attempt] = self._misses.get(job.attempt, 0) + 1
        if self._misses[job.attempt] < MAX_MISSES:
            return
        if job.id:
            job.state, job.error = "lost", f"SkyPilot knows no job {job.id} any more"
        else:
            self._refuse(job, job.error or "sky jobs launch ended before it had started the job")

    def _set_state(self, job: Job, status: str, record: dict[str, Any]) -> None:
        details = redact(" ".join(str(record.get("failure_reason") or record.get("details") or "").split()))
        if status in WAITING:
            job.state, job.error = "waiting", f"waits: {shorten(details, 200)}" if details else ""
        elif status in RUNNING:
            again = f"is started again: {shorten(details or 'preempted or interrupted', 200)}"
            job.state, job.error = "running", again if status == "RECOVERING" else ""
        elif status == "CANCELLED":
            job.state, job.error = "cancelled", "cancelled by sky jobs cancel"
        elif status in FAILURES:
            self._save_log(job)
            job.state = "failed"
            job.error = f"{FAILURES[status]} ({shorten(details, 200)}; sky jobs logs --controller {job.id})"
        elif status in ("SUCCEEDED", "FAILED"):
            code = self._save_log(job)
            job.record_exit(0 if status == "SUCCEEDED" else code or 1)
            if status == "FAILED" and code is None:
                job.exit_code, job.error = None, shorten(details, 200) or job.error
        else:
            job.error = f"SkyPilot reports {status}, which this version does not know; sky jobs queue says more"

    def _save_log(self, job: Job) -> int | None:
        """Write the log of a job that has ended, and return the exit code in it; None without one."""
        try:
            lines = read_log(job.id).splitlines()
        except RunError:
            return None
        own = [NODE_PREFIX.sub("", line) for line in lines if NODE_PREFIX.match(line)] or lines
        codes = [int(line.removeprefix(END)) for line in own if re.fullmatch(rf"{END} \d+", line)]
        kept = [line for line in own if not line.startswith(END)]
        with suppress(OSError):
            write_private(Path(job.log), "\n".join([*kept, ""]))
        failures = [code for code in codes if code]  # when a node fails, the others are killed: 137
        return min(failures) if failures else (0 if codes else None)

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Cancel waiting and running jobs, and wait for their end."""
        self.refresh(jobs)  # finds the jobs of an interrupted submission
        ids = [job.id for job in jobs if job.active and job.id]
        try:
            if ids:
                cancel(ids)
        except RunError as error:
            print(f"{error}; the jobs continue", flush=True)
            return
        deadline = time.monotonic() + self._resources.grace_seconds
        while any(job.active and job.id for job in jobs) and time.monotonic() < deadline:
            self.refresh(jobs)
            time.sleep(min(1.0, self.poll_seconds))


def name_of(job: Job) -> str:
    """Return the name by which SkyPilot knows an attempt of a job."""
    return f"instructrl-{job.attempt}"


def newest(records: Sequence[dict[str, Any]], job: Job) -> dict[str, Any] | None:
    """Return SkyPilot's record of a job; None if it has none."""
    found = [record for record in records if record.get("job_name") == name_of(job)]
    return max(found, key=lambda record: int(record.get("job_id") or 0), default=None)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room there") from None
