"""Stand-in for the command `sky` of SkyPilot, which records what it is given and answers as a test says.

Its words, options and records are those of SkyPilot 0.12 to 0.14. `python sky.py WORD...` is the command itself; it
needs only Python's standard library.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = "FAKE_SKY"  # variable with the folder of the stand-in


class FakeSky:
    """The command on a PATH, and SkyPilot's queue behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        command = self.bin / "sky"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).resolve()} "$@"\n')
        command.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, FOLDER: str(self.folder), "PATH": f"{self.bin}:{os.environ['PATH']}"}

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return read_jobs(self.folder)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The words of each call and the values of the secrets that it was given by name."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def launches(self) -> int:
        return sum(call["words"][:2] == ["jobs", "launch"] for call in self.calls)

    def set(self, number: int, status: str, *, reason: str = "", log: str = "") -> None:
        """Set the status and the log of a job, by its ID."""
        jobs = self.jobs
        jobs[number - 1] |= {"status": status, "failure_reason": reason or None}
        write_jobs(self.folder, jobs)
        (self.folder / f"{number}.log").write_text(log)

    def behave(self, name: str, text: str = "", *, on: bool = True) -> None:
        """Make the command misbehave.

        Args:
            name: `refuse` launches or be `silent` (with this error), `kill` the caller before it hears of a job, or
                answer only once `wait` is off.
            text: of the error.
            on: False to behave again.
        """
        path = self.folder / name
        path.write_text(text) if on else path.unlink()


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    path = folder / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else []


def write_jobs(folder: Path, jobs: list[dict[str, Any]]) -> None:
    path = folder / "jobs.json"
    path.with_suffix(".new").write_text(json.dumps(jobs))
    path.with_suffix(".new").replace(path)


def fail(text: str) -> None:
    print("D 12-01 16:00:00 skypilot.py:1] tried\n\x1b[31mError: " + text + "\x1b[0m", file=sys.stderr)
    sys.exit(1)


def launch(folder: Path, words: list[str]) -> None:
    if (folder / "refuse").exists():
        fail((folder / "refuse").read_text())
    while (folder / "wait").exists():
        time.sleep(0.05)
    task = Path(words[-1]).read_text()
    name = task.splitlines()[0].removeprefix("name: ")
    jobs = read_jobs(folder)
    jobs.append({"job_id": len(jobs) + 1, "job_name": name, "status": "PENDING", "failure_reason": None, "task": task})
    write_jobs(folder, jobs)
    if (folder / "kill").exists():
        os.kill(os.getppid(), signal.SIGKILL)
    print(f"Managed job ID: {len(jobs)}")


def queue(folder: Path) -> None:
    if (folder / "silent").exists():
        fail((folder / "silent").read_text())
    print("Checking managed jobs\n" + json.dumps(read_jobs(folder), indent=2))


def cancel(folder: Path, numbers: list[str]) -> None:
    jobs = read_jobs(folder)
    for number in numbers:
        jobs[int(number) - 1]["status"] = "CANCELLED"
    write_jobs(folder, jobs)


def main(words: list[str]) -> None:
    """Answer one call."""
    folder = Path(os.environ[FOLDER])
    secrets = [word.removeprefix("--secret=") for word in words if word.startswith("--secret=")]
    call = {"words": words, "secrets": {name: os.environ[name] for name in secrets}}
    with (folder / "calls").open("a") as file:
        file.write(json.dumps(call) + "\n")
    match words:
        case ["jobs", "launch", "--yes", "--detach-run", *_]:
            launch(folder, words)
        case ["jobs", "queue", "--refresh", "--all", "--verbose", "--output=json"]:
            queue(folder)
        case ["jobs", "cancel", "--yes", *numbers]:
            cancel(folder, numbers)
        case ["jobs", "logs", "--no-follow", number]:
            print((folder / f"{number}.log").read_text())
            sys.exit(100 if read_jobs(folder)[int(number) - 1]["status"] == "FAILED" else 0)
        case _:
            fail(f"No such option: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
