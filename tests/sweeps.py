"""Sweeps of small programs, each started in a separate process like a user's command."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = """
import json, sys
from instructrl.errors import report_user_errors
from instructrl.interruption import handle_signals
from instructrl.profiles import LauncherConfig, SlurmConfig
from launchers.description import JobSpec
from launchers.sweep import run_sweep

given = json.loads(sys.argv[1])
resources = LauncherConfig(name="tests", sweep="study", slurm=SlurmConfig(**given["slurm"]), **given["resources"])
specs = [
    JobSpec(("-c", program), given["run"], name, (f"job={name}",), resources, given["distributed"])
    for name, program in given["programs"].items()
]
with report_user_errors(), handle_signals():
    raise SystemExit(run_sweep(specs, "study", command="sweep"))
"""


def output_of(running: subprocess.Popen, *, code: int, timeout: float) -> str:
    """Wait for a command to end with this exit code, and return its output."""
    try:
        output = running.communicate(timeout=timeout)[0]
    finally:
        running.kill()
    assert running.returncode == code and "Traceback" not in output, output
    return output


class Sweep:
    """A sweep of programs in a folder, which can be started repeatedly."""

    def __init__(self, folder: Path, programs: Mapping[str, str], *, environment: Mapping[str, str] | None = None):
        self.folder, self.programs = folder, dict(programs)
        self.environment = {**(environment or os.environ), "PYTHONPATH": str(ROOT)}
        self.resources: dict[str, Any] = {"kind": "local", "grace_seconds": 20}
        self.slurm: dict[str, Any] = {}
        self.distributed = False
        (folder / "run").mkdir(exist_ok=True)

    def begin(self, **resources: Any) -> subprocess.Popen:
        given = {"programs": self.programs, "resources": self.resources | resources, "slurm": self.slurm}
        given |= {"run": str(self.folder / "run"), "distributed": self.distributed}
        words = [sys.executable, "-c", COMMAND, json.dumps(given)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(words, cwd=self.folder, env=self.environment, start_new_session=True, **pipes)

    def end(self, running: subprocess.Popen, *, code: int, timeout: float = 120) -> str:
        return output_of(running, code=code, timeout=timeout)

    def __call__(self, *, code: int = 0, timeout: float = 120, **resources: Any) -> str:
        return self.end(self.begin(**resources), code=code, timeout=timeout)

    @property
    def table(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "multirun/study/jobs.json").read_text())["jobs"]

    @property
    def states(self) -> list[tuple[str, int | None]]:
        return [(job["state"], job["exit_code"]) for job in self.table]

    def log(self, number: int) -> str:
        return "".join(path.read_text() for path in [*self.folder.glob(self.table[number - 1]["log"])])
