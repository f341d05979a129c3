"""Backend that runs the jobs of a sweep as one array on a SLURM cluster, through submitit.

submitit formats the batch script and pickles the command line; each task of the job execs that command, so that it
receives SLURM's signals directly. The script's last line records the exit code, or requeues the job. A job's state is
read from the recorded exit code, else from `squeue`: no accounting is needed. Each submission has its own comment, by
which its jobs are found when sbatch, or the process that called it, ended without saying whether it submitted them.
"""

import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError, RunError
from launchers.exit_status import read_exit_code
from launchers.job import JobSpec
from launchers.job_table import Job, merge_jobs
from launchers.slurm_commands import UNCERTAIN, cancel, ended_with, find_submission, query_queue, submit_script
from launchers.slurm_script import begin_attempts, comment, script_parameters, token_of, write_script
from launchers.submitit_internals import batch_script, pickle_task

STATES = {"PENDING": "waiting", "CONFIGURING": "waiting", "REQUEUED": "waiting", "REQUEUE_HOLD": "waiting"}
STATES |= dict.fromkeys(
    ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"), "running"
)
STATES |= {"CANCELLED": "cancelled"}
FAILURES = {
    "OUT_OF_MEMORY": "killed by SLURM: it used more memory than launcher.slurm.memory_gb",
    "NODE_FAIL": "its node was lost",
    "BOOT_FAIL": "its node did not start",
    "TIMEOUT": "time limit reached before it had saved; increase launcher.slurm.save_seconds or minutes",
    "DEADLINE": "its deadline passed",
    "PREEMPTED": "preempted, and not queued again by this cluster",
}
FIND_SECONDS = 5.0  # at most, between the queries by which it becomes certain whether a job exists
MAX_MISSES = 3  # consecutive polls without an answer, or without a job that has not recorded its exit code
# Pending reasons that never resolve by waiting (squeue's manual: JOB REASON CODES) ...
UNSATISFIABLE = re.compile(
    r"BadConstraints|PartitionConfig|PartitionTimeLimit|InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed"
    r"|(QOS|Assoc)Max\w+PerJob\w*|Job's[_ ](account|QOS|group|user)[_ ]not[_ ].*"
)
NORMAL_REASONS = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime")  # ... and those of a normal queue


@dataclass(frozen=True)
class Task:
    """Task of a job, the only content of the pickle: execs the command."""

    argv: tuple[str, ...]

    def __call__(self) -> None:
        """Replace this process by the command; never returns.

        Raises:
            SystemExit: the command cannot be started.
        """
        sys.stdout.flush()
        try:
            os.execvp(self.argv[0], self.argv)
        except OSError as error:
            raise SystemExit(f"error: {self.argv[0]}: cannot be started ({error.strerror})") from None


class Slurm:
    """Jobs of a sweep on the cluster of `sbatch`."""

    def __init__(self, folder: Path, resources: LauncherConfig):
        self._folder, self._resources = folder.absolute(), resources
        self._misses: dict[str, int] = {}
        self._unanswered = 0
        self.poll_seconds = resources.poll_seconds

    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Return the batch script and each job's command."""
        jobs = merge_jobs([], specs)
        begin_attempts(jobs, "SUBMISSION")
        text = batch_script(self._folder / "slurm", len(specs), script_parameters(self._folder, specs[0], jobs))
        commands = [
            f"# job {job.number}: {shlex.join(spec.command_line())}" for job, spec in zip(jobs, specs, strict=True)
        ]
        return "\n".join([text.rstrip(), "", *commands])

    def submit(self, pairs: Sequence[tuple[Job, JobSpec]], record: Callable[[], None]) -> None:
        """Submit one array, or mark all its jobs as refused with sbatch's error."""
        jobs, token = [job for job, _ in pairs], secrets.token_hex(8)
        begin_attempts(jobs, token)
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            self._refuse(jobs, "sbatch: not found here; launch from a node of a SLURM cluster, or with launcher=local")
            return
        folder = self._folder / "slurm"
        script = folder / f"{token}.sh"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for job, spec in pairs:
                pickle_task(task(spec), folder / f"{job.attempt}.pkl", minutes=self._resources.slurm.minutes)
            text = batch_script(folder, len(jobs), script_parameters(self._folder, pairs[0][1], jobs))
            write_script(script, text, self._resources.slurm)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); make room there") from None
        if not text.startswith("#!"):
            self._refuse(jobs, text.partition("\n")[0].lstrip("# "))
            return
        record()
        try:
            number = submit_script(script)
        except RunError as error:
            for job in jobs:
                job.error = str(error)
            self._find_submitted(jobs, certain=UNCERTAIN.search(str(error)) is None)
            return
        self._set_ids(jobs, number)

    def _set_ids(self, jobs: Sequence[Job], number: str) -> None:
        """Set the IDs of the jobs of a submission."""
        for job in jobs:
            index = job.attempt.rpartition("-")[2].partition(".")[2]
            job.id, job.error = f"{number}_{index}" if index else number, ""
            job.log = str(self._folder / "slurm" / f"{job.id}_*_log.out")
            job.submissions += 1

    def _find_submitted(self, jobs: Sequence[Job], *, certain: bool = False) -> None:
        """Find the IDs of jobs whose submission was not answered, by the comment that no other submission has.

        They are refused if SLURM does not know them, and keep waiting if it does not answer.

        Args:
            jobs: those of one submission without IDs.
            certain: sbatch said that there is no such job: one query is enough.
        """
        number = None
        for attempt in range(1 if certain else MAX_MISSES):
            time.sleep(min(self.poll_seconds, FIND_SECONDS) if attempt else 0)
            try:
                number = find_submission(comment(token_of(jobs[0])))
            except RunError as error:
                if not certain:
                    self._note_silence(f"{error}; whether sbatch submitted the jobs is unknown until it answers")
                    return
            if number is not None:
                print(f"job {number} was submitted, although sbatch did not say so", flush=True)
                self._set_ids(jobs, number)
                return
        self._refuse(jobs, jobs[0].error or "sbatch ended before it had submitted the job")

    def _note_silence(self, line: str) -> None:
        """Print a line once the queue could not be queried repeatedly."""
        self._unanswered += 1
        if self._unanswered == MAX_MISSES:
            print(line, flush=True)

    def _refuse(self, jobs: Sequence[Job], reason: str) -> None:
        log = self._folder / "slurm" / "refused.log"
        with suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(reason + "\n", encoding="utf-8")
        for job in jobs:
            job.state, job.error, job.log, job.id, job.exit_code = "refused", reason, str(log), "", None

    def attach(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs of an earlier command, polling until it is certain which of them still exist."""
        self.refresh(jobs)
        while any(job.active and job.attempt in self._misses for job in jobs) and not self._unanswered:
            time.sleep(min(self.poll_seconds, FIND_SECONDS))
            self.refresh(jobs)

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs from their recorded exit codes, else from squeue."""
        open_ = [job for job in jobs if job.active and not self._record_exit(job)]
        submissions = {token_of(job) for job in open_ if not job.id}
        for token in submissions:
            self._find_submitted([job for job in open_ if not job.id and token_of(job) == token])
        open_ = [job for job in open_ if job.id]
        if not open_:
            return
        try:
            queue = query_queue({job.id for job in open_})
        except RunError as error:
            self._note_silence(f"{error}; the jobs continue, and it is polled until it answers")
            return
        self._unanswered = 0
        for job in open_:
            if not self._record_exit(job):  # it may have ended meanwhile
                self._refresh_job(job, *queue.get(job.id, (None, "")))

    def _record_exit(self, job: Job) -> bool:
        """Return True if a job has ended and recorded its exit code."""
        code = read_exit_code(job.outcome(self._folder), job.id or None)
        if code is not None:
            job.record_exit(code)
        return code is not None

    def _refresh_job(self, job: Job, found: str | None, reason: str) -> None:
        if found == "PENDING" and UNSATISFIABLE.fullmatch(reason):
            cancel([job.id])
            job.state, job.error = "refused", f"cancelled, as SLURM would never start it: {reason}"
        elif found is not None and STATES.get(found) in ("waiting", "running"):
            job.state = STATES[found]
            job.error = f"waits: {reason}" if found == "PENDING" and reason not in NORMAL_REASONS else ""
            self._misses.pop(job.attempt, None)
        elif found == "CANCELLED":
            job.state, job.error = "cancelled", "cancelled by scancel or by SLURM"
        elif found in FAILURES:
            job.state, job.error = "failed", FAILURES[found]
        else:  # unknown, or ended without a recorded exit code, which a slow file system may still show
            self._misses[job.attempt] = self._misses.get(job.attempt, 0) + 1
            if self._misses[job.attempt] >= MAX_MISSES:
                self._end_unrecorded(job, found)

    def _end_unrecorded(self, job: Job, found: str | None) -> None:
        """Set the state of a job that recorded no exit code: the batch script ended with the job's own, if it ended."""
        code = job.find_exit_code(self._folder)
        if code is None and found in ("COMPLETED", "FAILED"):
            code = ended_with(job.id)
        if code is not None:
            job.record_exit(code)
        else:
            job.state = "failed" if found == "FAILED" else "lost"
            job.error = f"SLURM reports {found or 'nothing'} for job {job.id}, which recorded no exit code"

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Cancel waiting and running jobs, and wait for their end; SLURM sends SIGTERM first, so that they can save."""
        self.refresh(jobs)  # finds the jobs of an interrupted submission
        ids = [job.id for job in jobs if job.active and job.id]
        if ids:
            cancel(ids)
        deadline = time.monotonic() + self._resources.grace_seconds
        while any(job.active for job in jobs) and time.monotonic() < deadline:
            self.refresh(jobs)
            time.sleep(min(1.0, self.poll_seconds))


def task(spec: JobSpec) -> Task:
    """Convert a job spec to the task in the pickle."""
    return Task(tuple(spec.command_line()))
