"""Job spec: describes a job independently of the backend that runs it."""

import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError
from instructrl.package_files import IMPORT_ROOT, IS_CHECKOUT

ROOT = IMPORT_ROOT  # the checkout, or site-packages
TRAINING = {"train.py", "instructrl.commands.train"}  # in a checkout, and in an installed package
EVALUATION = {"eval.py", "instructrl.commands.evaluate"}
CHAINING = ("local", "slurm")  # kinds of launchers that start a job after others


def import_path() -> list[str]:
    """Folders that a job's PYTHONPATH must start with: the checkout; none for an installed package."""
    return [str(ROOT)] if IS_CHECKOUT else []


def checkout() -> Path:
    """Return the checkout whose code is copied to other machines.

    Raises:
        InputError: this is an installed package.
    """
    if not IS_CHECKOUT:
        raise InputError(
            f"{ROOT}: found an installed package, but other machines need the code of a checkout; clone InstructRL "
            "with git and run the command there"
        )
    return ROOT


def shell_line(words: Sequence[str]) -> str:
    """Return a command for a shell on one line: in a comment of a script, what follows a line break would be run."""
    return " ".join(shlex.quote(word) if word.isprintable() else escaped(word) for word in words)


def escaped(word: str) -> str:
    """Return a word as bash reads it with its control characters escaped."""
    plain = word.replace("\\", r"\\").replace("'", r"\'")
    codes = (one if one.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(one)) for one in plain)
    return f"$'{''.join(codes)}'"


@dataclass(frozen=True)
class JobSpec:
    """One job of a sweep, or the only one.

    Attributes:
        command: arguments of the interpreter: ("train.py", "seed=0", ...) in a checkout, or ("-m", a module, ...).
            Repeating the command resumes the job.
        run: the output directory or bucket folder, as in the command.
        name: valid as a file name and unique within the sweep.
        overrides: the user's choices for this job.
        resources: the launcher profile with its overrides.
        after: indices, among the specs of its command, of the jobs that must succeed first.
        distributed: True if the profile's number of processes work on this job together (training); else it has one.
        results: lines that name the files which it writes for the jobs before it; empty for most.
    """

    command: tuple[str, ...]
    run: str
    name: str
    overrides: tuple[str, ...]
    resources: LauncherConfig
    distributed: bool = False
    after: tuple[int, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def entry(self) -> tuple[str, ...]:
        """The receiver of the overrides: the program, and the folder of further settings."""
        count = 2 if self.command[0] == "-m" else 1
        while self.command[count : count + 1] == ("--config-dir",):
            count += 2
        return self.command[:count]

    @property
    def config_folders(self) -> list[str]:
        """The absolute paths of the folders of further settings."""
        return [folder for flag, folder in itertools.pairwise(self.entry) if flag == "--config-dir"]

    def sets(self, key: str) -> bool:
        """Return True if the command has an override of a setting."""
        return any(word.partition("=")[0] == key for word in self.command)

    def command_line(self, python: str = sys.executable, root: Path = ROOT) -> list[str]:
        """Return the complete command line, for any working directory on a machine with the checkout in `root`."""
        first, *rest = self.command
        return [python, str(root / first) if first.endswith(".py") else first, *rest]
