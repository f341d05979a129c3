"""Job spec: describes a job independently of the backend that runs it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instructrl.config.launcher import LauncherConfig

ROOT = Path(__file__).resolve().parent.parent  # of the checkout


@dataclass(frozen=True)
class JobSpec:
    """One job of a sweep, or the only one.

    Attributes:
        command: arguments of the interpreter in a checkout: ("train.py", "seed=0", ...), or ("-m", a module, ...).
            Repeating the command resumes the job.
        run: the output directory or bucket folder, as in the command.
        name: valid as a file name and unique within the sweep.
        overrides: the user's choices for this job.
        resources: the launcher profile with its overrides.
        distributed: True if the profile's number of processes work on this job together (training); else it has one.
        environment: additional environment variables.
    """

    command: tuple[str, ...]
    run: str
    name: str
    overrides: tuple[str, ...]
    resources: LauncherConfig
    distributed: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def command_line(self, python: str = sys.executable, root: Path = ROOT) -> list[str]:
        """Return the complete command line, for any working directory on a machine with the checkout in `root`."""
        first, *rest = self.command
        return [python, str(root / first) if first.endswith(".py") else first, *rest]
