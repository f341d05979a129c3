"""Backend that runs the jobs of a sweep as one array on a SLURM cluster, through submitit.

submitit writes the batch script and a pickle of the command line; each task of the job execs that command, so that it
receives SLURM's signals directly. The script's last line records the exit code, or requeues the job. A job's state is
read from the recorded exit code, else from `squeue`: no accounting is needed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrl.config.launcher import LauncherConfig, SlurmConfig
from instructrl.errors import RunError
from launchers.exit_status import read_exit_code
from launchers.job import JobSpec, import_path
from launchers.job_table import Job
from launchers.submitit_internals import batch_script

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
    environment: tuple[tuple[str, str], ...]

    def __call__(self) -> None:
        """Replace this process by the command; never returns.

        Raises:
            SystemExit: the command cannot be started.
        """
        os.environ.update(self.environment)
        sys.stdout.flush()
        try:
            os.execvp(self.argv[0], self.argv)
        except OSError as error:
            raise SystemExit(f"error: {self.argv[0]}: cannot be started ({error.strerror})") from None


class Slurm:
    """Jobs of a sweep on the cluster of `sbatch`."""

    def __init__(self, folder: Path, resources: LauncherConfig):
        self._folder, self._resources = folder.absolute(), resources
        self._misses: dict[int, int] = {}
        self._unanswered = 0
        self.poll_seconds = resources.poll_seconds

    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Return the batch script and each job's command."""
        numbers = range(1, len(specs) + 1)
        text = batch_script(self._folder / "slurm", len(specs), self._parameters(specs[0], numbers))
        commands = [shlex.join(spec.command_line()) for spec in specs]
        return "\n".join(
            [text.rstrip(), "", *(f"# job {n}: {line}" for n, line in zip(numbers, commands, strict=True))]
        )

    def submit(self, pairs: Sequence[tuple[Job, JobSpec]]) -> None:
        """Submit one array, or mark all its jobs as refused with sbatch's error."""
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            self._refuse(pairs, "sbatch: not found here; launch from a node of a SLURM cluster, or with launcher=local")
            return
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        for job, _ in pairs:
            self._outcome(job.number).unlink(missing_ok=True)
            job.exit_code, job.error = None, ""
        executor = SlurmExecutor(self._folder / "slurm")
        executor.update_parameters(**self._parameters(pairs[0][1], [job.number for job, _ in pairs]))
        try:
            with executor.batch():
                submitted = [executor.submit(task(spec)) for _, spec in pairs]
            ids = [one.job_id for one in submitted]
        except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
            self._refuse(pairs, sbatch_error(str(error)))
            return
        for (job, _), number in zip(pairs, ids, strict=True):
            job.id, job.state = number, "waiting"
            job.log = str(self._folder / "slurm" / f"{number}_*_log.out")
            job.submissions += 1

    def _refuse(self, pairs: Sequence[tuple[Job, JobSpec]], reason: str) -> None:
        log = self._folder / "slurm" / "refused.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(reason + "\n")
        for job, _ in pairs:
            job.state, job.error, job.log, job.id, job.exit_code = "refused", reason, str(log), "", None

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs from their recorded exit codes, else from squeue."""
        active = [job for job in jobs if job.active and job.id]
        open_ = []
        for job in active:
            code = read_exit_code(self._outcome(job.number))
            if code is None:
                open_.append(job)
            else:
                job.record_exit(code)
        if not open_:
            return
        try:
            queue = query_queue({job.id for job in open_})
        except RunError as error:
            self._unanswered += 1
            if self._unanswered == MAX_MISSES:
                print(f"{error}; the jobs continue, and it is polled until it answers", flush=True)
            return
        self._unanswered = 0
        for job in open_:
            code = read_exit_code(self._outcome(job.number))  # it may have ended meanwhile
            if code is not None:
                job.record_exit(code)
            else:
                self._refresh_job(job, *queue.get(job.id, (None, "")))

    def _refresh_job(self, job: Job, found: str | None, reason: str) -> None:
        if found == "PENDING" and UNSATISFIABLE.fullmatch(reason):
            subprocess.run(["scancel", job.id], check=False)
            job.state, job.error = "refused", f"cancelled, as SLURM would never start it: {reason}"
        elif found is not None and STATES.get(found) in ("waiting", "running"):
            job.state = STATES[found]
            job.error = f"waits: {reason}" if found == "PENDING" and reason not in NORMAL_REASONS else ""
            self._misses.pop(job.number, None)
        elif found == "CANCELLED":
            job.state, job.error = "cancelled", "cancelled by scancel or by SLURM"
        elif found in FAILURES:
            job.state, job.error = "failed", FAILURES[found]
        else:  # unknown, or ended without a recorded exit code, which a slow file system may still show
            self._misses[job.number] = self._misses.get(job.number, 0) + 1
            if self._misses[job.number] >= MAX_MISSES:
                job.state = "failed" if found == "FAILED" else "lost"
                job.error = f"SLURM reports {found or 'nothing'} for job {job.id}, which recorded no exit code"

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Cancel waiting and running jobs, and wait for their end; SLURM sends SIGTERM first, so that they can save."""
        ids = [job.id for job in jobs if job.active and job.id]
        if ids:
            subprocess.run(["scancel", *ids], check=False)
        deadline = time.monotonic() + self._resources.grace_seconds
        self.refresh(jobs)
        while any(job.active for job in jobs) and time.monotonic() < deadline:
            time.sleep(min(1.0, self.poll_seconds))
            self.refresh(jobs)

    def _outcome(self, number: int) -> Path:
        return self._folder / "outcomes" / f"{number:03}.json"

    def _parameters(self, spec: JobSpec, numbers: Sequence[int]) -> dict[str, Any]:
        """Return submitit's parameters of the batch script."""
        settings = self._resources.slurm
        distributed = spec.distributed
        array = len(numbers) > 1
        which = f"$(printf %03d $(echo {' '.join(map(str, numbers))} | cut -d' ' -f$((SLURM_ARRAY_TASK_ID + 1))))"
        outcome = f"{shlex.quote(str(self._folder / 'outcomes'))}/{which if array else f'{numbers[0]:03}'}.json"
        found: dict[str, Any] = {
            "job_name": self._resources.sweep or "instructrl",
            "time": settings.minutes,
            "nodes": settings.nodes if distributed else 1,
            "ntasks_per_node": settings.tasks_per_node if distributed else 1,
            "cpus_per_task": settings.cpus_per_task,
            "mem": f"{int(settings.memory_gb * 1024)}M" if settings.memory_gb else None,
            "signal_delay_s": settings.save_seconds,
            "array_parallelism": settings.parallel,
            "stderr_to_stdout": True,
            "srun_args": ["--wait=60"],  # when a process fails, the others are killed after 60 s
            "setup": [
                *(settings.setup or []),
                " ".join(["export", *map(prepend_to_pythonpath, import_path()), "PYTHONUNBUFFERED=1"]),
                "trap : TERM USR2  # this script stays to see how the command ends",
            ],
            "teardown": [
                "code=$?",
                f"{shlex.quote(sys.executable)} -m launchers.exit_status slurm {outcome} $code {settings.requeues}",
            ],
            "additional_parameters": {
                "requeue": True,
                "wckey": "instructrl",
                **extra_options(settings, distributed=distributed),
            },
            **{key: getattr(settings, key) for key in ("partition", "account", "qos", "constraint")},
        }
        return {key: value for key, value in found.items() if value is not None}


def prepend_to_pythonpath(folder: str) -> str:
    """Return a shell assignment that puts a folder before the present PYTHONPATH."""
    return f"PYTHONPATH={shlex.quote(folder)}${{PYTHONPATH:+:$PYTHONPATH}}"


def extra_options(settings: SlurmConfig, *, distributed: bool) -> dict[str, Any]:
    """Return sbatch options without a submitit parameter: GPU type, GPUs shared by a node's tasks, and reservations."""
    found: dict[str, Any] = {}
    if settings.gpus_per_node:
        count = settings.gpus_per_node if distributed else 1
        found["gpus-per-node"] = f"{settings.gpu}:{count}" if settings.gpu else count
    if settings.reservation:
        found["reservation"] = settings.reservation
    return found


def task(spec: JobSpec) -> Task:
    """Convert a job spec to the task in the pickle."""
    return Task(tuple(spec.command_line()), tuple(sorted(spec.environment.items())))


def sbatch_error(text: str) -> str:
    """Extract sbatch's error as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines or ["sbatch: failed without a message"]
    return re.sub(r"^sbatch: (error: )?", "sbatch: ", errors[0])


def query_queue(ids: set[str]) -> dict[str, tuple[str, str]]:
    """Query states and pending reasons of the jobs that SLURM still knows, by ID.

    Raises:
        RunError: squeue does not answer.
    """
    main = sorted({one.partition("_")[0] for one in ids})
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(main)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        raise RunError(f"squeue: cannot be started ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise RunError("squeue: no answer in 60 s") from None
    if done.returncode and "Invalid job id" not in done.stderr:
        raise RunError(f"squeue: {' '.join(done.stderr.split())[:200] or f'exit code {done.returncode}'}")
    found = [line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return {one: (state, reason) for one, state, reason in found}
