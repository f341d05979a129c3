"""Commands of the user's own `sky`: start, query, read and cancel managed jobs."""

import json
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from instructrl.errors import RunError, format_value, shorten

INSTALL = "sky: not found; install SkyPilot with: uv tool install 'skypilot[gcp,aws]>=0.12', then run: sky check"
ANSWER_SECONDS = 900.0  # a query may have to start the controller of the jobs again
LAUNCH_SECONDS = 3600.0  # the first job starts the controller, and the code is copied
# Errors of `sky jobs launch` after which SkyPilot may start the job all the same.
UNCERTAIN = re.compile(r"no answer in|timed out|connection (reset|aborted)|gateway", re.IGNORECASE)
NO_CONTROLLER = "ClusterDoesNotExist"  # the error of a query before the first job, or once the controller was deleted
COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def answer(*words: str, seconds: float = ANSWER_SECONDS) -> str:
    """Return what `sky` prints.

    Raises:
        RunError: it is not installed, fails, or does not answer.
    """
    ended = run(*words, seconds=seconds)
    if ended.returncode:
        reason = error_line(f"{ended.stdout}\n{ended.stderr}") or f"exit code {ended.returncode}"
        raise RunError(f"sky {' '.join(words[:2])}: {reason}")
    return ended.stdout


def run(*words: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run `sky` to its end.

    Raises:
        RunError: it is not installed, or does not end in time.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # in a session of its own: ctrl-C ends this process, which then looks what became of the command
    options = {"encoding": "utf-8", "errors": "replace", "timeout": seconds, "start_new_session": True}
    try:
        return subprocess.run(["sky", *words], **pipes, **options)  # type: ignore[call-overload, no-any-return]
    except FileNotFoundError:
        raise RunError(INSTALL) from None
    except OSError as error:
        raise RunError(f"sky: cannot be started ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"sky {' '.join(words[:2])}: no answer in {seconds:g} s") from None


def error_line(text: str) -> str:
    """Return the line that says what went wrong: the last with an error, else the last; empty without any."""
    lines = [line.strip() for line in COLORS.sub("", text).splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)]
    return shorten((errors or lines or [""])[-1], 300)


def launch_words(path: Path, secrets: Sequence[str]) -> list[str]:
    """Return the words of `sky` that start a managed job; it takes the values of secrets from its environment."""
    return ["jobs", "launch", "--yes", "--detach-run", *(f"--secret={name}" for name in secrets), str(path)]


def query_jobs() -> list[dict[str, Any]]:
    """Return SkyPilot's records of all managed jobs of this user.

    Raises:
        RunError: it does not answer, or something else than a list.
    """
    try:
        return parse_records(answer("jobs", "queue", "--refresh", "--all", "--verbose", "--output=json"))
    except RunError as error:
        if NO_CONTROLLER in str(error):
            return []
        raise


def parse_records(text: str) -> list[dict[str, Any]]:
    """Return the records in the output of `sky jobs queue`, which may print lines before them.

    Raises:
        RunError: there are none.
    """
    for start in re.finditer(r"^\[", text, re.MULTILINE):
        with suppress(ValueError):
            found, _ = json.JSONDecoder().raw_decode(text, start.start())
            if all(isinstance(record, dict) for record in found):
                return list(found)
    found_text = format_value(text.strip())
    raise RunError(f"sky jobs queue: found {found_text}; expected a list as JSON, which SkyPilot 0.12 and newer print")


def read_log(job: str) -> str:
    """Return a job's log without colors; the exit code of this command is that of the job.

    Raises:
        RunError: `sky` does not answer.
    """
    return COLORS.sub("", run("jobs", "logs", "--no-follow", job, seconds=ANSWER_SECONDS).stdout)


def cancel(jobs: Sequence[str]) -> None:
    """Cancel managed jobs.

    Raises:
        RunError: they cannot be cancelled.
    """
    answer("jobs", "cancel", "--yes", *jobs)
