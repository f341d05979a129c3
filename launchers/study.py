"""From a command's jobs to their descriptions."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from instructrl.command import Study
from instructrl.config import CollectConfig, EvalConfig, TrainConfig
from instructrl.profiles import LauncherConfig
from launchers.description import Launch
from launchers.sweep import sweep_name


def launches(study: Study) -> tuple[list[Launch], str]:
    """A launch for each job, and the name of the sweep."""
    jobs = study.jobs
    name = study.launcher.sweep or sweep_name(jobs, entry=study.config_name)
    resources = replace(study.launcher, sweep=name)
    found = []
    for number, (overrides, config) in enumerate(zip(jobs, study.configs, strict=True), 1):
        launch = Launch(
            command=(*study.entry, *overrides, *additions(config, overrides, resources, sweep=name)),
            run=filled(config),
            name=f"{number:03}-{plain(' '.join(overrides))}",
            overrides=tuple(overrides),
            resources=resources,
            together=isinstance(config, TrainConfig),
        )
        found.append(launch)
    return found, name


def additions(config: Any, overrides: Sequence[str], resources: LauncherConfig, *, sweep: str) -> list[str]:
    """Words that the launcher adds to a job's: they say where it runs and how it is watched, not what it computes."""
    given = {word.partition("=")[0] for word in overrides}
    if not isinstance(config, TrainConfig):
        return []
    words = {}
    if config.wandb.mode != "off":
        words["wandb.group"] = sweep
    if resources.kind == "slurm":  # launchers/tpu_place.py adds its own
        if resources.slurm.gpus_per_node:
            words["hardware"] = "gpu"
        if resources.slurm.nodes * resources.slurm.tasks_per_node > 1:
            words["hardware.coordinator"] = "auto"
    return [f"{key}={value}" for key, value in words.items() if key not in given]


def filled(config: Any) -> str:
    """The folder that a job fills."""
    if isinstance(config, TrainConfig):
        return (
            str(PurePosixPath(config.output_dir) / config.name)
            if "://" not in config.output_dir
            else (f"{config.output_dir.rstrip('/')}/{config.name}")
        )
    if isinstance(config, EvalConfig):
        return config.run
    assert isinstance(config, CollectConfig)
    return config.data.dir


def plain(text: str) -> str:
    """Words as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.,=-]+", "_", text)[-80:].strip("_") or "job"
