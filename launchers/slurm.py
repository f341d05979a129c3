"""On a SLURM cluster, through submitit: one array for the jobs of a sweep.

submitit writes the batch script and a pickle that holds the command alone; each task of the job becomes that command,
so that SLURM's signals reach it and nothing stands between. The script's last line notes how it ended, or queues it
again. How a job fares is told by what it noted, then by `squeue`: no accounting is needed.
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

from instructrl.errors import RunError
from instructrl.profiles import LauncherConfig, SlurmConfig
from launchers.description import ROOT, Launch
from launchers.ending import noted
from launchers.table import Job

STATES = {"PENDING": "waiting", "CONFIGURING": "waiting", "REQUEUED": "waiting", "REQUEUE_HOLD": "waiting"}
STATES |= dict.fromkeys(
    ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"), "running"
)
STATES |= {"CANCELLED": "cancelled"}
FAILURES = {
    "OUT_OF_MEMORY": "killed by SLURM: it took more memory than launcher.slurm.memory_gb",
    "NODE_FAIL": "its node was lost",
    "BOOT_FAIL": "its node did not start",
    "TIMEOUT": "its time was over before it had saved; more launcher.slurm.save_seconds or minutes",
    "DEADLINE": "its deadline passed",
    "PREEMPTED": "preempted, and not queued again by this cluster",
}
MOST_MISSES = 3  # looks in a row at which SLURM does not know a job that has not noted its end, or does not answer
# Reasons to wait that only another job or another cluster ends (squeue's manual: JOB REASON CODES) ...
NEVER = re.compile(
    r"BadConstraints|PartitionConfig|PartitionTimeLimit|InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed"
    r"|(QOS|Assoc)Max\w+PerJob\w*|Job's[_ ](account|QOS|group|user)[_ ]not[_ ].*"
)
USUAL = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime")  # ... and those of every job


@dataclass(frozen=True)
class Task:
    """What a task of a job does: it becomes the command. This is all that the pickle holds."""

    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def __call__(self) -> None:
        """Never returns.

        Raises:
            SystemExit: the command cannot be started.
        """
        os.environ.update(self.environment)
        sys.stdout.flush()
        try:
            os.execvp(self.words[0], self.words)
        except OSError as error:
            raise SystemExit(f"error: {self.words[0]}: cannot be started ({error.strerror})") from None


class Slurm:
    """Jobs of a sweep on the cluster that `sbatch` speaks to."""

    def __init__(self, folder: Path, resources: LauncherConfig):
        self._folder, self._resources = folder.absolute(), resources
        self._misses: dict[int, int] = {}
        self._silent = 0
        self.poll_seconds = resources.poll_seconds

    def shown(self, launches: Sequence[Launch]) -> str:
        """The batch script, and each job's command."""
        from submitit.core.utils import JobPaths
        from submitit.slurm.slurm import _make_sbatch_string

        numbers = range(1, len(launches) + 1)
        folder = JobPaths.get_first_id_independent_folder(self._folder / "slurm")
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        count = len(launches) if len(launches) > 1 else None
        text = _make_sbatch_string(command, folder, map_count=count, **self._parameters(launches[0], numbers))
        commands = [shlex.join(launch.words()) for launch in launches]
        return "\n".join(
            [text.rstrip(), "", *(f"# job {n}: {line}" for n, line in zip(numbers, commands, strict=True))]
        )

    def submit(self, pairs: Sequence[tuple[Job, Launch]]) -> None:
        """Submit one array, or refuse all its jobs with what sbatch says."""
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
                submitted = [executor.submit(task(launch)) for _, launch in pairs]
            ids = [one.job_id for one in submitted]
        except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
            self._refuse(pairs, refusal(str(error)))
            return
        for (job, _), number in zip(pairs, ids, strict=True):
            job.id, job.state = number, "waiting"
            job.log = str(self._folder / "slurm" / f"{number}_*_log.out")
            job.submissions += 1

    def _refuse(self, pairs: Sequence[tuple[Job, Launch]], reason: str) -> None:
        log = self._folder / "slurm" / "refused.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(reason + "\n")
        for job, _ in pairs:
            job.state, job.error, job.log, job.id, job.exit_code = "refused", reason, str(log), "", None

    def look(self, jobs: Sequence[Job]) -> None:
        """What they noted, else what squeue says."""
        active = [job for job in jobs if job.active and job.id]
        open_ = []
        for job in active:
            code = noted(self._outcome(job.number))
            if code is None:
                open_.append(job)
            else:
                job.ended(code)
        if not open_:
            return
        try:
            queue = queued({job.id for job in open_})
        except RunError as error:
            self._silent += 1
            if self._silent == MOST_MISSES:
                print(f"{error}; the jobs go on, and it is asked again until it answers", flush=True)
            return
        self._silent = 0
        for job in open_:
            code = noted(self._outcome(job.number))  # it may have ended between
            if code is not None:
                job.ended(code)
            else:
                self._see(job, *queue.get(job.id, (None, "")))

    def _see(self, job: Job, found: str | None, reason: str) -> None:
        if found == "PENDING" and NEVER.fullmatch(reason):
            subprocess.run(["scancel", job.id], check=False)
            job.state, job.error = "refused", f"SLURM would never start it, and it is cancelled: {reason}"
        elif found is not None and STATES.get(found) in ("waiting", "running"):
            job.state = STATES[found]
            job.error = f"waits: {reason}" if found == "PENDING" and reason not in USUAL else ""
            self._misses.pop(job.number, None)
        elif found == "CANCELLED":
            job.state, job.error = "cancelled", "cancelled by scancel or by SLURM"
        elif found in FAILURES:
            job.state, job.error = "failed", FAILURES[found]
        else:  # gone, or ended without a note, which a slow file system may still bring
            self._misses[job.number] = self._misses.get(job.number, 0) + 1
            if self._misses[job.number] >= MOST_MISSES:
                job.state = "failed" if found == "FAILED" else "lost"
                job.error = f"SLURM says {found or 'nothing'} of job {job.id}, which left no exit code"

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Cancel what waits or runs, and wait for its end; SLURM sends SIGTERM first, so that it may save."""
        ids = [job.id for job in jobs if job.active and job.id]
        if ids:
            subprocess.run(["scancel", *ids], check=False)
        end = time.monotonic() + self._resources.grace_seconds
        self.look(jobs)
        while any(job.active for job in jobs) and time.monotonic() < end:
            time.sleep(min(1.0, self.poll_seconds))
            self.look(jobs)

    def _outcome(self, number: int) -> Path:
        return self._folder / "outcomes" / f"{number:03}.json"

    def _parameters(self, launch: Launch, numbers: Sequence[int]) -> dict[str, Any]:
        """What submitit shall write into the batch script."""
        asked = self._resources.slurm
        together = launch.together
        array = len(numbers) > 1
        which = f"$(printf %03d $(echo {' '.join(map(str, numbers))} | cut -d' ' -f$((SLURM_ARRAY_TASK_ID + 1))))"
        outcome = f"{shlex.quote(str(self._folder / 'outcomes'))}/{which if array else f'{numbers[0]:03}'}.json"
        found: dict[str, Any] = {
            "job_name": self._resources.sweep or "instructrl",
            "time": asked.minutes,
            "nodes": asked.nodes if together else 1,
            "ntasks_per_node": asked.tasks_per_node if together else 1,
            "cpus_per_task": asked.cpus_per_task,
            "mem": f"{int(asked.memory_gb * 1024)}M" if asked.memory_gb else None,
            "signal_delay_s": asked.save_seconds,
            "array_parallelism": asked.parallel,
            "stderr_to_stdout": True,
            "srun_args": ["--wait=60"],  # a process that fails does not leave the others waiting for it
            "setup": [
                *(asked.setup or []),
                f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONUNBUFFERED=1",
                "trap : TERM USR2  # this script stays to see how the command ends",
            ],
            "teardown": [
                "code=$?",
                f"{shlex.quote(sys.executable)} -m launchers.ending slurm {outcome} $code {asked.requeues}",
            ],
            "additional_parameters": {"requeue": True, "wckey": "instructrl", **extra(asked, together=together)},
            **{key: getattr(asked, key) for key in ("partition", "account", "qos", "constraint")},
        }
        return {key: value for key, value in found.items() if value is not None}


def extra(asked: SlurmConfig, *, together: bool) -> dict[str, Any]:
    """What submitit has no name for: GPUs of a kind, all of a node's for each of its tasks, and reservations."""
    found: dict[str, Any] = {}
    if asked.gpus_per_node:
        count = asked.gpus_per_node if together else 1
        found["gpus-per-node"] = f"{asked.gpu}:{count}" if asked.gpu else count
    if asked.reservation:
        found["reservation"] = asked.reservation
    return found


def task(launch: Launch) -> Task:
    """A launch as the pickle holds it."""
    return Task(tuple(launch.words()), tuple(sorted(launch.environment.items())))


def refusal(text: str) -> str:
    """What sbatch says, in a line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line] or lines or ["sbatch: failed without a word"]
    return re.sub(r"^sbatch: (error: )?", "sbatch: ", telling[0])


def queued(ids: set[str]) -> dict[str, tuple[str, str]]:
    """The states of jobs that SLURM still knows, by their ids, and for what they wait.

    Raises:
        RunError: it does not answer.
    """
    main = sorted({one.partition("_")[0] for one in ids})
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(main)}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        raise RunError(f"squeue: cannot be started ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise RunError("squeue: no answer in 60 s") from None
    if done.returncode and "Invalid job id" not in done.stderr:
        raise RunError(f"squeue: {' '.join(done.stderr.split())[:200] or f'exit code {done.returncode}'}")
    found = [line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return {one: (state, reason) for one, state, reason in found}
