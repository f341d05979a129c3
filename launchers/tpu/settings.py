"""Settings of the pod commands, merged from a profile, the private file and the command line."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from instructrl.cli.args import parse_settings
from instructrl.config.fields import flatten, format_value, number, setting, word
from instructrl.config.launcher import FOLDER_NAME, FOLDER_NAME_ALLOWED, TpuConfig, user_overrides
from instructrl.errors import InputError
from instructrl.package_files import CONFIG_DIR

PROG = "python -m launchers.tpu"
SETUP_VARIABLE = "INSTRUCTRL_TPU_SETUP"  # the setting `setup` of a sweep's jobs, which may contain passwords


@dataclass
class PodConfig(TpuConfig):
    """Settings of a pod command."""

    launcher: str | None = setting(None, help="profile of conf/launcher/")
    run: str | None = word(FOLDER_NAME, FOLDER_NAME_ALLOWED, help="name of the run; null: from its command")
    detach: bool = setting(False, help="run: keep running when the terminal closes")
    create: bool = setting(
        False, help="run: first create, copy and set up what is missing, and again when the pod is lost"
    )
    alone: bool = setting(False, help="run: on the first host only")
    force: bool = setting(False, help="copy: even while a run uses the code")
    yes: bool = setting(False, help="delete: without confirmation")
    dry_run: bool = setting(False, help="create, run: print the requests only")
    lines: int = number(20, low=0, high=1_000_000, help="logs: number of earlier lines to print")
    seconds: int = number(60, low=0, high=3600, help="stop: seconds to save")


def read(words: Sequence[str]) -> PodConfig:
    """Merge the settings of the profile, the private file and the command line.

    Raises:
        InputError: a setting is unknown or invalid.
    """
    profile = [word.partition("=")[2] for word in words if word.startswith("launcher=")]
    from_profile = profile_words(profile[-1]) if profile else []
    from_file = [word.removeprefix("launcher.tpu.") for word in user_overrides() if word.startswith("launcher.tpu.")]
    from_sweep = [f"setup={os.environ[SETUP_VARIABLE]}"] if SETUP_VARIABLE in os.environ else []
    return parse_settings([*from_profile, *from_file, *from_sweep, *words], PodConfig, prog=PROG)


def profile_words(name: str) -> list[str]:
    """Return the settings of a profile as words.

    Raises:
        InputError: there is no TPU profile with that name.
    """
    known = sorted(path.stem for path in (CONFIG_DIR / "launcher").glob("tpu*.yaml"))
    if name not in known:
        raise InputError(f"launcher: found {format_value(name)}; allowed: {', '.join(known)}")
    profile_values: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "launcher" / f"{name}.yaml"))
    return [f"{key}={json.dumps(value)}" for key, value in flatten(profile_values["tpu"])]


def run_name(config: PodConfig, words: Sequence[str]) -> str:
    """Return the run's name: as given, or derived from its command, so that repeating the command finds it."""
    return config.run or "run-" + hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]


def required_run(config: PodConfig) -> str:
    """Return the name of the run.

    Raises:
        InputError: it is not set.
    """
    if config.run is None:
        raise InputError(f"run: not set; {PROG} status lists the runs")
    return run_name(config, ())
