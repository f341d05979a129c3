"""Builds the job specs of a sweep from the composed overrides."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from instructrl.cli.entry import SweepRequest
from instructrl.config.environment import CollectConfig
from instructrl.config.evaluation import EvalConfig
from instructrl.config.launcher import LauncherConfig, SlurmConfig
from instructrl.config.share import is_divided
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, format_value
from launchers.job import JobSpec
from launchers.sweep.evaluations import evaluation_specs
from launchers.sweep.runner import sweep_name
from launchers.sweep.shares import check_shares, share_specs


def job_specs(request: SweepRequest) -> tuple[list[JobSpec], str]:
    """Return a job spec per job, or several if its episodes are divided, and the name of the sweep.

    Raises:
        InputError: a training is to have more processes than GPUs on a node, a container's settings have no image,
            evaluations cannot follow, or episodes cannot be divided.
    """
    jobs = request.jobs
    if any(isinstance(config, TrainConfig) for config in request.configs):
        check_gpus(request.launcher)
    check_container(request.launcher.slurm)
    check_shares(request)
    name = request.launcher.sweep or sweep_name(jobs, entry=request.config_name)
    resources = replace(request.launcher, sweep=name)
    specs: list[JobSpec] = []
    for number, (overrides, config) in enumerate(zip(jobs, request.configs, strict=True), 1):
        spec = JobSpec(
            command=(*request.entry, *overrides, *launcher_overrides(config, overrides, resources, sweep=name)),
            run=output_folder(config),
            name=f"{number:03}-{file_name(' '.join(overrides))}",
            overrides=tuple(overrides),
            resources=resources,
            distributed=isinstance(config, TrainConfig),
        )
        specs += share_specs(spec, config, number=len(specs)) if is_divided(config) else [spec]
    return [*specs, *evaluation_specs(request, specs)], name


def check_gpus(resources: LauncherConfig) -> None:
    """Raise InputError if a node has fewer GPUs than processes, of which each needs one of its own."""
    tasks, gpus = resources.slurm.tasks_per_node, resources.slurm.gpus_per_node
    if resources.kind == "slurm" and gpus is not None and tasks > gpus:
        raise InputError(
            f"launcher.slurm.tasks_per_node: found {tasks} with launcher.slurm.gpus_per_node={gpus}; allowed: at most "
            "as many, as each process of a training needs a GPU of its own"
        )


def check_container(settings: SlurmConfig) -> None:
    """Raise InputError for settings of a container without an image."""
    for name in ("container_mounts", "container_python"):
        value = getattr(settings, name)
        if value and not settings.container:
            found = f"launcher.slurm.{name}: found {format_value(value)}"
            raise InputError(f"{found} without launcher.slurm.container; give the image too")


def launcher_overrides(config: Any, overrides: Sequence[str], resources: LauncherConfig, *, sweep: str) -> list[str]:
    """Return overrides that the launcher adds to a job's: hardware and monitoring, never what it computes."""
    given = {word.partition("=")[0] for word in overrides}
    if not isinstance(config, TrainConfig):
        return []
    added = {}
    if config.wandb.mode != "off":
        added["wandb.group"] = sweep
    if config.trackio.enabled:
        added["trackio.group"] = sweep
    if resources.kind == "slurm":  # launchers/tpu/launcher.py adds its own
        if resources.slurm.gpus_per_node:
            added["hardware"] = "gpu"
        if resources.slurm.nodes * resources.slurm.tasks_per_node > 1:
            added["hardware.coordinator"] = "auto"
    return [f"{key}={value}" for key, value in added.items() if key not in given]


def output_folder(config: Any) -> str:
    """Return the output folder of a job."""
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


def file_name(text: str) -> str:
    """Convert overrides to a part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.,=-]+", "_", text)[-80:].strip("_") or "job"
