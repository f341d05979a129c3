"""Backend that runs the jobs of a sweep as arrays on a SLURM cluster, through submitit.

submitit formats the batch script and pickles the command line; each task of the job execs that command, so that it
receives SLURM's signals directly. The script's last line records the exit code, or requeues the job. A job's state is
read from the recorded exit code, else from `squeue`: no accounting is needed. Each submission has its own comment, by
which its jobs are found when sbatch, or the process that called it, ended without saying whether it submitted them.
"""

import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from instructrl.errors import InputError, RunError
from launchers.exit_status import read_exit_code, read_job
from launchers.job import JobSpec, shell_line
from launchers.job_table import Job, merge_jobs
from launchers.queue import FIND_SECONDS, MAX_MISSES, Queue
from launchers.slurm_commands import (
    UNCERTAIN,
    cancel,
    ended_with,
    find_submission,
    max_array_size,
    query_queue,
    submit_script,
)
from launchers.slurm_script import (
    begin_attempts,
    comment,
    divide,
    divide_parallel,
    interpreter,
    job_python,
    script_parameters,
    token_of,
    write_script,
)
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
# Pending reasons that never resolve by waiting (squeue's manual: JOB REASON CODES) ...
UNSATISFIABLE = re.compile(
    r"BadConstraints|DependencyNeverSatisfied|PartitionConfig|PartitionTimeLimit|InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed"
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


@dataclass(frozen=True)
class Array:
    """Jobs that are submitted together, how many may run at a time, and their dependency on other jobs, if any."""

    pairs: Sequence[tuple[Job, JobSpec]]
    parallel: int
    needed: str = ""

    @property
    def jobs(self) -> list[Job]:
        return [job for job, _ in self.pairs]


class Slurm(Queue):
    """Jobs of a sweep on the cluster of `sbatch`."""

    label, command = "SLURM", "squeue"

    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Return the batch script of each array, and its jobs' commands."""
        texts = []
        pairs = list(zip(merge_jobs([], specs), specs, strict=True))
        first = [pair for pair in pairs if not pair[1].after]
        later = [pair for pair in pairs if len(pair[1].after) == 1]
        arrays = [Array(array, parallel) for array, parallel in self._arrays(first)]
        if later:
            after = "aftercorr" if len(first) > 1 else "afterok"
            arrays += [Array(array, parallel, f"{after}:JOB") for array, parallel in self._arrays(later)]
        arrays += [Array([pair], 1, "afterok:JOB") for pair in pairs if len(pair[1].after) > 1]
        for array in arrays:
            begin_attempts(array.jobs, "SUBMISSION")
            commands = [f"# job {job.number}: {shell_line(task(spec).argv)}" for job, spec in array.pairs]
            texts.append("\n".join([self._script(array).rstrip(), "", *commands]))
        return "\n\n".join(texts)

    def submit(self, pairs: Sequence[tuple[Job, JobSpec]], record: Callable[[], None]) -> None:
        """Submit as few arrays as the cluster allows, or mark the jobs of one as refused with sbatch's error."""
        self._submit([Array(array, parallel) for array, parallel in self._arrays(pairs)], record)

    def submit_after(self, triples: Sequence[tuple[Job, JobSpec, Sequence[Job]]], record: Callable[[], None]) -> None:
        """Submit jobs that each start once others have succeeded: after a single one in arrays with its index."""
        groups: dict[str, list[tuple[Job, JobSpec, Job]]] = {}
        arrays = []
        for job, spec, needed in triples:
            open_ = [other for other in needed if other.state != "done"]
            if len(open_) > 1 and all(other.active and other.id for other in open_):
                arrays.append(Array([(job, spec)], 1, "afterok:" + ":".join(other.id for other in open_)))
                continue
            # the first that has ended without success, if one has
            other = next((other for other in open_ if not (other.active and other.id)), [*open_, *needed][0])
            groups.setdefault(other.id.partition("_")[0] if other.active else other.state, []).append(
                (job, spec, other)
            )
        for key, group in groups.items():
            pairs, needed = [(job, spec) for job, spec, _ in group], [job for *_, job in group]
            if key == "done":
                arrays += [Array(array, parallel) for array, parallel in self._arrays(pairs)]
            elif not needed[0].active or not needed[0].id:
                for job, _, other in group:
                    begin_attempts([job], secrets.token_hex(8))
                    self._refuse([job], f"not submitted, as job {other.number} was not")
            elif [job.id for job in needed] == [f"{key}_{index}" for index in range(len(needed))] and len(needed) > 1:
                arrays.append(Array(pairs, self._resources.slurm.parallel, f"aftercorr:{key}"))
            else:
                arrays += [Array([pair], 1, f"afterok:{job.id}") for pair, job in zip(pairs, needed, strict=True)]
        self._submit(arrays, record)

    def _submit(self, arrays: Sequence["Array"], record: Callable[[], None]) -> None:
        """Submit arrays, or mark the jobs of one as refused with sbatch's error."""
        for array in arrays:
            begin_attempts(array.jobs, secrets.token_hex(8))
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            reason = "sbatch: not found here; launch from a node of a SLURM cluster, or with launcher=local"
            self._refuse([job for array in arrays for job in array.jobs], reason)
            return
        scripts = [self._write(array) for array in arrays]
        for array, script in zip(arrays, scripts, strict=True):
            if script is not None:
                record()  # also the IDs of the arrays before it
                self._submit_script(script, array.jobs)

    def _arrays(self, pairs: Sequence[tuple[Job, JobSpec]]) -> list[tuple[Sequence[tuple[Job, JobSpec]], int]]:
        """Return the jobs of each array, with how many of them may run at a time.

        Raises:
            InputError: fewer jobs may run at a time than there are arrays.
        """
        arrays = divide(pairs, max_array_size()) if len(pairs) > 1 else [pairs]
        return list(zip(arrays, divide_parallel(self._resources.slurm.parallel, len(arrays)), strict=True))

    def _script(self, array: "Array") -> str:
        """Return the batch script of one array."""
        spec, parallel = array.pairs[0][1], array.parallel
        parameters = script_parameters(self._folder, spec, array.jobs, parallel=parallel, needed=array.needed)
        words = interpreter(spec)
        return batch_script(self._folder / "slurm", len(array.pairs), parameters, interpreter=words)

    def _write(self, array: "Array") -> Path | None:
        """Write the tasks and the batch script of one array; returns None if its jobs are refused.

        Raises:
            InputError: a file cannot be written.
        """
        folder, jobs = self._folder / "slurm", array.jobs
        script = folder / f"{token_of(jobs[0])}.sh"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for job, spec in array.pairs:
                pickle_task(task(spec), folder / f"{job.attempt}.pkl", minutes=self._resources.slurm.minutes)
            text = self._script(array)
            write_script(script, text, self._resources.slurm)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); make room there") from None
        if text.startswith("#!"):
            return script
        self._refuse(jobs, text.partition("\n")[0].lstrip("# "))
        return None

    def _submit_script(self, script: Path, jobs: Sequence[Job]) -> None:
        """Submit one array, or mark its jobs as refused with sbatch's error."""
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

    def _refuse(self, jobs: Sequence[Job], reason: str) -> None:
        log = self._folder / "slurm" / "refused.log"
        with suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(reason + "\n", encoding="utf-8")
        for job in jobs:
            job.state, job.error, job.log, job.id, job.exit_code = "refused", reason, str(log), "", None

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
        if code is None:
            return False
        if not job.id:  # it ended before its submission was found
            self._set_ids([job], read_job(job.outcome(self._folder)).partition("_")[0])
        job.record_exit(code)
        return True

    def _refresh_job(self, job: Job, found: str | None, reason: str) -> None:
        if found == "PENDING" and UNSATISFIABLE.fullmatch(reason) and not self._resources.dry_run:
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
    return Task(tuple(spec.command_line(job_python(spec.resources.slurm))))
