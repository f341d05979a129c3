"""Logs of a job: their last lines, and further ones as they are written."""

import sys
import time
from pathlib import Path

from instructrl.errors import InputError
from launchers.job_table import Job
from launchers.jobs.settings import PROG
from launchers.jobs.sweep import Sweep
from launchers.sweep.runner import exit_code

CHUNK = 65_536  # bytes that are read at a time
LOOK_SECONDS = 0.5  # between looks at the logs


class LogPrinter:
    """Prints the whole lines of a job's logs, each with the name of its file if there are several."""

    def __init__(self, *, lines: int | None) -> None:
        """Begin with the last lines of each log; None: with all."""
        self._lines = lines
        self._read: dict[Path, int] = {}  # bytes of each log that were read
        self._rest: dict[Path, bytes] = {}  # a line that is not whole yet

    def print_new(self, job: Job, *, final: bool = False) -> None:
        """Print what is new, `final`: also a last line without an end.

        Raises:
            InputError: a log cannot be read.
        """
        files = log_files(job)
        for file in files:
            prefix = f"{file.name}: " if len(files) > 1 else ""
            *whole, rest = (self._rest.get(file, b"") + self._new_bytes(file)).split(b"\n")
            self._rest[file] = b"" if final else rest
            for line in [*whole, *([rest] if final and rest else [])]:
                print(prefix + line.decode(errors="replace").rstrip("\r"))
        sys.stdout.flush()

    def _new_bytes(self, file: Path) -> bytes:
        """Read what was added to a log; at first its last lines."""
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                start = self._read.get(file)
                if start is None:
                    start = 0 if self._lines is None else start_of_last_lines(file, self._lines)
                opened.seek(start if start <= size else 0)  # it was emptied and begins again
                content = opened.read()
                self._read[file] = opened.tell()
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
        return content


def start_of_last_lines(file: Path, count: int) -> int:
    """Return the position in a file at which its last lines begin."""
    with file.open("rb") as opened:
        end = place = opened.seek(0, 2)
        content = b""
        while place > 0 and content.count(b"\n") <= count:
            start = max(0, place - CHUNK)
            opened.seek(start)
            content, place = opened.read(place - start) + content, start
    return end - sum(map(len, content.splitlines(keepends=True)[-count:]))


def log_files(job: Job) -> list[Path]:
    """Return the logs of a job: one, or one of each of its processes."""
    return sorted(Path(job.log).parent.glob(Path(job.log).name)) if job.log else []


def print_logs(job: Job, *, lines: int | None) -> None:
    """Print the last lines of the logs of a job, None: all.

    Raises:
        InputError: it has no log, or a log cannot be read.
    """
    if not log_files(job):
        reason = f": {job.error}" if job.error else ""
        raise InputError(f"job: found {job.number}, which is {job.state} and has no log{reason}")
    LogPrinter(lines=lines).print_new(job, final=True)


def follow(sweep: Sweep, job: Job, *, lines: int | None, poll_seconds: float) -> int:
    """Print the logs of a job until it ends; returns the exit code of such a sweep, or 130 after ctrl-C.

    Raises:
        InputError: a log cannot be read.
    """
    printer, number, looked = LogPrinter(lines=lines), job.number, time.monotonic()
    if job.active and not log_files(job):
        print(f"job {number} is {job.state}; its log follows when it begins", file=sys.stderr, flush=True)
    try:
        while job.active:
            printer.print_new(job)
            time.sleep(min(LOOK_SECONDS, poll_seconds))
            if time.monotonic() - looked >= poll_seconds:
                looked = time.monotonic()
                sweep.refresh()
                [job] = [one for one in sweep.jobs if one.number == number]
    except KeyboardInterrupt:
        print(f"the job goes on; {PROG} cancel sweep={sweep.folder.name} job={number} stops it", flush=True)
        return 130
    printer.print_new(job, final=True)
    print(f"job {number} {job.state}{f': {job.error}' if job.error else ''}", file=sys.stderr, flush=True)
    return exit_code([job])
