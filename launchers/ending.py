"""What a job leaves when it ends: its exit code in a file, which tells more than any queue. Needs only Python.

python -m launchers.ending run OUTCOME WORD...                    run a command here, and note its end
python -m launchers.ending slurm OUTCOME CODE REQUEUES            the last line of a batch script
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

AGAIN = 75  # "interrupted, give the same command again" (EX_TEMPFAIL)
TOLD = (signal.SIGTERM, signal.SIGUSR2)
DECIDED = ("CANCELLED", "COMPLETING")  # states of a job whose script still runs: SLURM ends it, or queues it again


def note(path: Path, code: int) -> None:
    """Write an exit code, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"exit_code": code}))
    temporary.replace(path)


def noted(path: Path) -> int | None:
    """The exit code of a job that has ended."""
    try:
        return int(json.loads(path.read_text())["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run(outcome: Path, words: list[str]) -> int:
    """Run a command; SIGTERM and SIGUSR2 are handed on as SIGTERM, and the command ends when this process is killed."""
    told: list[int] = []
    child: subprocess.Popen | None = None

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)

    for number in TOLD:
        signal.signal(number, tell)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the launcher's to answer
    try:
        child = subprocess.Popen(words, preexec_fn=end_with_parent)
    except OSError as error:
        print(f"error: {words[0]}: cannot be started ({error.strerror})", file=sys.stderr)
        note(outcome, 127)
        return 127
    if told:
        child.send_signal(signal.SIGTERM)
    code = child.wait()
    code = AGAIN if told and code in (-signal.SIGTERM, -signal.SIGUSR2) else 128 - code if code < 0 else code
    note(outcome, code)
    return code


def end_with_parent() -> None:
    """Called in the child: SIGTERM for it when the parent dies, and ctrl-C as usual (Linux)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def slurm(outcome: Path, code: int, requeues: int) -> int:
    """Queue an interrupted job again, unless SLURM has decided about it (cancelled it, say); else note its end."""
    state = own_state()
    if state.startswith(DECIDED) and code:
        return code
    interrupted = code in (AGAIN, *(128 + number for number in TOLD))
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if interrupted and restarts < requeues:
        print(f"interrupted: queued again, {restarts + 1} of at most {requeues} times", flush=True)
        asked = subprocess.run(["scontrol", "requeue", own_name()], check=False)
        if asked.returncode == 0:
            time.sleep(120)  # it is SLURM that ends this process
            return AGAIN
        if own_state().startswith(("PENDING", "REQUEUED", *DECIDED)):  # SLURM was faster
            return AGAIN
    note(outcome, code)
    return code


def own_name() -> str:
    """What SLURM's commands call this job: the number alone, of an array's first job, would mean all of the array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def own_state() -> str:
    """What SLURM's controller says of this job; empty where it does not answer."""
    words = ["scontrol", "-o", "show", "job", own_name()]
    asked = subprocess.run(words, capture_output=True, text=True, check=False)
    return dict(part.split("=", 1) for part in asked.stdout.split() if "=" in part).get("JobState", "")


if __name__ == "__main__":
    kind, place, *others = sys.argv[1:]
    sys.exit(run(Path(place), others) if kind == "run" else slurm(Path(place), int(others[0]), int(others[1])))
