"""Records a job's exit code in a file, which is more reliable than a queue. Needs only Python's standard library.

python -m launchers.exit_status run OUTCOME WORD...                    run a command and record its exit code
python -m launchers.exit_status slurm OUTCOME CODE REQUEUES            the last line of a batch script
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

INTERRUPTED = 75  # EX_TEMPFAIL: interrupted, the same command resumes
ANSWER_SECONDS = 60  # seconds within which a command of SLURM must answer
FORWARDED = (signal.SIGTERM, signal.SIGUSR2)
ENDING = ("CANCELLED", "COMPLETING")  # states of a job whose script still runs while SLURM ends or requeues it


def write_exit_code(path: Path, code: int, job: str) -> None:
    """Write an exit code and the job's ID atomically.

    If the folder cannot be written, the job has ended all the same, and a line in its log says so, which
    `unwritten_exit_code` reads.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"exit_code": code, "job": job}), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        print(f"\n{path}: cannot be written ({error.strerror}); the job ended with code {code}", file=sys.stderr)


def unwritten_exit_code(path: Path, line: str) -> int | None:
    """Return the exit code in the last line of a log if `write_exit_code` could not write it to `path`."""
    found = re.fullmatch(rf"{re.escape(str(path))}: cannot be written \(.*\); the job ended with code (\d+)", line)
    return int(found[1]) if found else None


def read_exit_code(path: Path, job: str | None = None) -> int | None:
    """Read the exit code of a job; None if it has not ended, or if the file is another job's."""
    content = read_outcome(path)
    try:
        return None if job is not None and content.get("job", job) != job else int(content["exit_code"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def read_job(path: Path) -> str:
    """Read the ID of the job that recorded an exit code; empty if there is none."""
    return str(read_outcome(path).get("job", ""))


def read_outcome(path: Path) -> dict[str, Any]:
    """Read what `write_exit_code` wrote; empty if there is nothing that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def run(outcome: Path, words: list[str]) -> int:
    """Run a command; SIGTERM and SIGUSR2 are forwarded as SIGTERM, and the command ends if this process is killed."""
    received: list[int] = []
    child: subprocess.Popen | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is handled by the launcher
    try:
        child = subprocess.Popen(words, preexec_fn=end_with_parent)
    except OSError as error:
        print(f"error: {words[0]}: cannot be started ({error.strerror})", file=sys.stderr)
        write_exit_code(outcome, 127, str(os.getpid()))
        return 127
    if received:
        child.send_signal(signal.SIGTERM)
    code = child.wait()
    code = INTERRUPTED if received and code in (-signal.SIGTERM, -signal.SIGUSR2) else 128 - code if code < 0 else code
    write_exit_code(outcome, code, str(os.getpid()))
    return code


def end_with_parent() -> None:
    """Set up the child process: SIGTERM when the parent dies (Linux), and the default ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def slurm(outcome: Path, code: int, requeues: int) -> int:
    """Requeue an interrupted job unless SLURM ends it anyway (a cancelled one); else record its exit code."""
    if code and job_state().startswith(ENDING):
        return code
    interrupted = code in (INTERRUPTED, *(128 + number for number in FORWARDED))
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if interrupted and restarts < requeues:
        print(f"interrupted: queued again, {restarts + 1} of at most {requeues} times", flush=True)
        if scontrol("requeue", job_id()) is not None:
            time.sleep(120)  # SLURM ends this process
            return INTERRUPTED
        if job_state().startswith(("PENDING", "REQUEUED", *ENDING)):  # SLURM requeued it first
            return INTERRUPTED
    write_exit_code(outcome, code, job_id())
    return code


def scontrol(*words: str) -> str | None:
    """Return what `scontrol` prints; None if it fails, does not answer or is not installed on this node."""
    try:
        result = subprocess.run(
            ["scontrol", *words], capture_output=True, encoding="utf-8", errors="replace", timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if result.returncode else result.stdout


def job_id() -> str:
    """Job ID for SLURM's commands: for an array's first job, the plain number would refer to the whole array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def job_state() -> str:
    """State of this job in SLURM's controller; empty if it does not answer."""
    text = scontrol("-o", "show", "job", job_id()) or ""
    return dict(part.split("=", 1) for part in text.split() if "=" in part).get("JobState", "")


if __name__ == "__main__":
    kind, outcome, *arguments = sys.argv[1:]
    sys.exit(
        run(Path(outcome), arguments) if kind == "run" else slurm(Path(outcome), int(arguments[0]), int(arguments[1]))
    )
