"""What the commands on pods take: a profile's settings, those of the private file, those of the command line."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from data_tools.parser import settings
from instructrl.errors import InputError
from instructrl.overrides import CONFIG_DIR
from instructrl.profiles import TpuConfig, flat, private_words
from instructrl.schema import number, shown

PROG = "python -m launchers.tpu"


@dataclass
class PodConfig(TpuConfig):
    """A command: the pod, and what is to happen to it."""

    launcher: str | None = None  # a profile of conf/launcher/
    run: str | None = None  # a run's name; null: from its command
    detach: bool = False  # run: go on by itself
    create: bool = False  # run: do first what is needed, and again when the pod is lost
    alone: bool = False  # run: on the first host only
    force: bool = False  # copy: also while a run is running from it
    yes: bool = False  # delete: without a question
    dry_run: bool = False  # create, run: show what would be asked
    lines: int = number(20, low=0, high=1_000_000)  # logs: of before
    seconds: int = number(60, low=0, high=3600)  # stop: for saving


def read(words: Sequence[str]) -> PodConfig:
    """The settings of a command: its profile's, those of the private file, its own.

    Raises:
        InputError: they are not what there is.
    """
    profile = [word.partition("=")[2] for word in words if word.startswith("launcher=")]
    first = profile_words(profile[-1]) if profile else []
    private = [word.removeprefix("launcher.tpu.") for word in private_words() if word.startswith("launcher.tpu.")]
    return settings([*first, *private, *words], PodConfig, prog=PROG)


def profile_words(name: str) -> list[str]:
    """The settings of a profile.

    Raises:
        InputError: there is none of that name for TPUs.
    """
    known = sorted(path.stem for path in (CONFIG_DIR / "launcher").glob("tpu*.yaml"))
    if name not in known:
        raise InputError(f"launcher: found {shown(name)}; allowed: {', '.join(known)}")
    values: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "launcher" / f"{name}.yaml"))
    return [f"{key}={json.dumps(value)}" for key, value in flat(values["tpu"])]


def run_name(asked: PodConfig, words: Sequence[str]) -> str:
    """The run's name: as given, or from its command, so that the same command finds it again.

    Raises:
        InputError: it is no name for a folder.
    """
    name = asked.run or "run-" + hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
    if not all(letter.isalnum() or letter in "._-=," for letter in name) or name.startswith((".", "-")):
        raise InputError(f"run: found {shown(name)}; allowed: letters, digits and ._-=, not beginning with . or -")
    return name


def needed_run(asked: PodConfig) -> str:
    """The run that is meant.

    Raises:
        InputError: it is not said.
    """
    if asked.run is None:
        raise InputError(f"run: not set; {PROG} status lists what there is")
    return run_name(asked, ())
