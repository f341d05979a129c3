"""Settings of the commands on the jobs of sweeps."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from instructrl.cli.args import parse_settings
from instructrl.config.fields import number, setting, word
from instructrl.config.launcher import FOLDER_NAME, FOLDER_NAME_ALLOWED

PROG = "python -m launchers.jobs"


@dataclass
class JobsConfig:
    """Settings of a command on the jobs of sweeps."""

    folder: str = setting("multirun", help="folder of the sweeps, which --multirun writes where it is started")
    sweep: str | None = word(FOLDER_NAME, FOLDER_NAME_ALLOWED, help="name of the sweep; list: null: all sweeps")
    job: str | None = setting(
        None,
        help="number or cluster ID of a job, or words of its choices, like seed=1; null: all jobs, or the only one",
    )
    watch: bool = setting(False, help="list: keep the table up to date until all jobs have ended")
    lines: int | None = number(20, low=1, high=1_000_000, help="logs, follow: number of earlier lines; null: all")
    seconds: float = number(120.0, low=0, high=36_000, help="cancel: time to save before a local job is killed")
    poll_seconds: float = number(
        5.0, above=0, high=3600, help="list, follow: interval of looks at the files and at the queue"
    )


def read(words: Sequence[str]) -> tuple[JobsConfig, list[str]]:
    """Return the settings, and the words that are settings of the launcher.

    Raises:
        InputError: a setting is unknown or invalid.
    """
    launcher = [word for word in words if is_launcher_word(word)]
    own = [as_text(word) for word in words if word not in launcher]
    return parse_settings(own, JobsConfig, prog=PROG), launcher


def as_text(word: str) -> str:
    """Return a word whose value, if it is a name, is read as text: YAML would read 1_0 as the number 10."""
    key, _, value = word.partition("=")
    return f"{key}={json.dumps(value)}" if key in ("folder", "sweep", "job") and value not in ("", "null") else word


def is_launcher_word(word: str) -> bool:
    """Return True for a setting of the launcher, or its profile."""
    return re.match(r"launcher[=.]", word) is not None
