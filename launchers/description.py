"""What is to run, said once for every place where it can run."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instructrl.profiles import LauncherConfig

ROOT = Path(__file__).resolve().parent.parent  # of the checkout


@dataclass(frozen=True)
class Launch:
    """One job of a sweep, or the only one.

    Attributes:
        command: what follows the interpreter, as in a checkout: ("train.py", "seed=0", ...), or ("-m", a module, ...).
            Given again, it resumes.
        run: the directory or bucket's folder that it fills, as the command has it.
        name: fit for a file, and unlike those of the sweep's other jobs.
        overrides: what the user chose for this job.
        resources: the profile with what was set beside it.
        together: whether its processes, where the profile asks for several, do one work (training); else it has one.
        environment: variables added to those of the place where it runs.
    """

    command: tuple[str, ...]
    run: str
    name: str
    overrides: tuple[str, ...]
    resources: LauncherConfig
    together: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def words(self, python: str = sys.executable, root: Path = ROOT) -> list[str]:
        """The whole command line, for any working directory of a machine on which `root` holds the checkout."""
        first, *rest = self.command
        return [python, str(root / first) if first.endswith(".py") else first, *rest]
