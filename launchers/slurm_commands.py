"""SLURM's commands: submissions, queries of the queue and cancellations, each with a time limit."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from instructrl.errors import RunError

ANSWER_SECONDS = 60.0  # seconds within which a command must answer
USUAL_ARRAY_SIZE = 1001  # SLURM's default of MaxArraySize
EXPORT_VARIABLES = ("SBATCH_EXPORT", "SLURM_EXPORT_ENV")  # as the options --export of sbatch and of srun
EXPORT_ADVICE = "jobs inherit the environment of this command, which they need for its keys and paths"
# Errors of sbatch after which the controller may have accepted the job all the same.
UNCERTAIN = re.compile(r"timed out|no answer in|zero bytes|connection reset|transport endpoint|killed", re.IGNORECASE)


def answer(*words: str) -> str:
    """Return what a command prints.

    Raises:
        RunError: it cannot be started, fails, or does not answer; it is killed then, with its own processes.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # SBATCH_COMMENT would take the place of the comment by which a submission is found.
    left_out = {"SBATCH_COMMENT", *withholding_variables()}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    options = {"env": environment, "text": True, "errors": "replace", "start_new_session": True}
    try:
        process = subprocess.Popen(words, **pipes, **options)  # type: ignore[call-overload]
    except OSError as error:
        raise RunError(f"{words[0]}: cannot be started ({error.strerror})") from None
    try:
        out, err = process.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise RunError(f"{words[0]}: no answer in {ANSWER_SECONDS:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        reason = f"killed by signal {-process.returncode}" if process.returncode < 0 else ""
        raise RunError(command_error(words[0], err) or f"{words[0]}: {reason or f'exit code {process.returncode}'}")
    return str(out)


def command_error(command: str, text: str) -> str:
    """Extract a command's error as one line; empty if it printed none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines
    return f"{command}: {re.sub(rf'^{command}: (error: )?', '', errors[0])[:200]}" if errors else ""


def withholding_variables() -> list[str]:
    """Return the variables with which sbatch, or srun in a job, would withhold this environment from the job.

    Jobs need it: it has the user's keys and paths, and no command line or script may hold a key in its place.
    """
    return [name for name in EXPORT_VARIABLES if name in os.environ and "ALL" not in os.environ[name].split(",")]


def submit_script(script: Path) -> str:
    """Submit a batch script; returns the job's ID.

    Variables that would withhold the environment from the job are left out, which a printed line says.

    Raises:
        RunError: sbatch refuses, or it is uncertain whether the job exists (`UNCERTAIN` matches the message).
    """
    if withheld := withholding_variables():
        print(f"{', '.join(f'{name}={os.environ[name]}' for name in withheld)}: left out; {EXPORT_ADVICE}", flush=True)
    text = answer("sbatch", str(script))
    found = re.search(r"job (\d+)", text)
    if found is None:
        raise RunError(f"sbatch: no answer in what it printed ({' '.join(text.split())[:100]})")
    return found[1]


def max_array_size() -> int:
    """Return the number of jobs that this cluster allows in one array, at least 1; SLURM's default if unknown."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer("scontrol", "show", "config"), re.MULTILINE)
    except RunError:  # a dry run elsewhere, or sbatch will say why
        found = None
    return max(1, int(found[1])) if found else USUAL_ARRAY_SIZE


def find_submission(comment: str) -> str | None:
    """Return the ID of the job, or of the array, that was submitted with a comment; None if SLURM knows of none.

    Raises:
        RunError: squeue does not answer.
    """
    words = ("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--format=%F|%k")
    for line in answer(*words).splitlines():
        number, _, text = line.strip().partition("|")
        if text.strip().partition(" ")[0] == comment:  # the user's own comment follows
            return number
    return None


def query_queue(ids: set[str]) -> dict[str, tuple[str, str]]:
    """Query states and pending reasons of the jobs that SLURM still knows, by ID.

    Raises:
        RunError: squeue does not answer.
    """
    main = sorted({one.partition("_")[0] for one in ids})
    words = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(main)}")
    try:
        text = answer(*words)
    except RunError as error:
        if "Invalid job id" not in str(error):
            raise
        text = ""
    found = [line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    known = {one: (state, reason) for one, state, reason in found}
    for one in ids - set(known):  # those of an array that were cancelled before they started share a line with its ID
        state, reason = known.get(one.partition("_")[0], ("", ""))
        if state == "CANCELLED":
            known[one] = state, reason
    return known


def ended_with(job: str) -> int | None:
    """Return the exit code that the controller has of a job; None if it does not know."""
    try:
        text = answer("scontrol", "-o", "show", "job", job)
    except RunError:
        return None
    found = re.search(r"\bExitCode=(\d+):(\d+)", text)
    if found is None or int(found[2]) > 31:  # SLURM's own reasons, such as a log that it cannot write
        return None
    return 128 + int(found[2]) if int(found[2]) else int(found[1])


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; a controller that does not answer is a printed line."""
    try:
        answer("scancel", *ids)
    except RunError as error:
        print(f"{error}; not cancelled: {' '.join(ids)}", flush=True)
