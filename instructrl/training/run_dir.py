"""The run directory: its recorded settings and data, compared with those of a resumed run. Needs no jax.

`config.yaml` holds the settings, `data.json` paths and checksums of the data, `metrics.jsonl` the training curves,
`speed.jsonl` the throughput, `checkpoints/` the state, `eval/` evaluations.
"""

import copy
import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypedDict

from omegaconf import OmegaConf

from instructrl.config.fields import with_current_names
from instructrl.config.kinds import without_unused
from instructrl.config.resolve import differences, resolve
from instructrl.config.training import TrainConfig
from instructrl.config.yaml_file import read_yaml
from instructrl.errors import InputError
from instructrl.storage.atomic import write_atomically
from instructrl.storage.json_file import read_json
from instructrl.storage.paths import StoragePath, storage_path

RECORDED_KEYS = ("encoder.weights", "pretraining.train", "pretraining.val")  # data.json records their checksums


class DataEntry(TypedDict, total=False):
    """An input of a run in data.json: a file, or another run."""

    path: str
    checksum: str
    provenance: dict[str, str]  # of demonstrations
    step: int  # of the run that this one starts from
    fresh: list[str]  # patterns of the parameters that do not come from it


DataRecord = dict[str, DataEntry]  # by split (and task, or number), or by the name of what is no data

FREE_KEYS = (  # may change when a run resumes: they affect paths, speed and logging, but no result
    *RECORDED_KEYS,
    "output_dir",
    "data.dir",
    "data.compression",  # lossless
    "data.cache_dir",
    "data.cache_gb",
    "features_dir",
    "hardware.name",
    "hardware.platform",
    "hardware.prefetch",
    "hardware.fsdp",
    "hardware.accumulation",
    "hardware.local_devices",
    "hardware.coordinator",
    "hardware.num_processes",
    "hardware.process_id",
    "hardware.compilation_cache",
    "hardware.peak_flops",
    "hardware.profile",
    "hardware.attention",
    "hardware.remat",
    "hardware.scan",
    "sim.renderer",
    "sim.workers",
    "sim.timeout",
    "training.save_every",
    "training.keep_last",
    "training.keep_best",
    "training.rollout_every",
    "training.rollout_episodes",
    "training.log_every",
    "pretraining.num_visualized",
    "wandb.mode",
    "wandb.project",
    "wandb.entity",
    "wandb.group",
)


def settings(config: TrainConfig, *, without: Collection[str] = FREE_KEYS) -> dict[str, Any]:
    """The settings that affect results, as nested dicts."""
    values = copy.deepcopy(dataclasses.asdict(config))
    for key in without:
        *groups, last = key.split(".")
        target = values
        for group in groups:
            target = target[group]
        del target[last]
    return values


def run_path(config: TrainConfig) -> StoragePath:
    """Path of the run directory."""
    return storage_path(config.output_dir, config.data) / config.name


def find_run(config: TrainConfig, run: Path | None = None) -> Path:
    """The run directory, existing or not; nothing is written. `run`: its local working copy, if there is one.

    Raises:
        InputError: the run was started with different settings, which are listed.
    """
    run = run or Path(config.output_dir) / config.name
    if (run / "config.yaml").exists():
        lines = differences(settings(read_config(run)), settings(config))
        if lines:
            raise InputError(
                f"{run}: was started with different settings ({'; '.join(lines)}); "
                "use the same ones to resume, add name=... for a separate run, or remove the directory"
            )
    return run


def open_run(config: TrainConfig, run: Path | None = None) -> Path:
    """Create the run directory, or open one with the same settings.

    Raises:
        InputError: the run was started with different settings, or cannot be written.
    """
    run = find_run(config, run)
    recorded = run / "config.yaml"
    if not recorded.exists():
        write_atomically(recorded, OmegaConf.to_yaml(OmegaConf.structured(config)))
    return run


def read_config(run: Path) -> TrainConfig:
    """Read the settings of a run.

    Raises:
        InputError: there is no run, or its config.yaml cannot be read.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: no config.yaml found; give the directory of a run, such as run=outputs/NAME")
    try:
        file = read_yaml(path)
    except InputError as error:
        raise InputError(f"{error}; restore it, or train again") from None
    if not file.values:
        raise InputError(f"{path}: contains no settings; train again")
    try:
        recorded = with_current_names(OmegaConf.create(file.values))
        return resolve(without_unused(recorded, TrainConfig), TrainConfig)
    except InputError as error:
        raise InputError(f"{file.place(tuple(error.key.split('.')))}: {error}") from None


def check_agent(config: TrainConfig, run: StoragePath, *, key: str) -> None:
    """Raise InputError if a run is a pretraining, which has no agent; `key` is the setting that names the run."""
    if config.objective == "masked_pretraining":
        raise InputError(
            f"{key}: found {run}, which pretrained an encoder and contains no agent; "
            f"train one with encoder={config.encoder.name} encoder.weights={run / 'encoder.safetensors'}"
        )


def record_data(run: Path, data: DataRecord) -> None:
    """Record paths and checksums of a run's demonstrations, tokenizer and encoder weights.

    Raises:
        InputError: they differ from those with which the run started.
    """
    path = run / "data.json"
    known = read_data(run) if path.exists() else data
    for split, entry in data.items():
        if "checksum" not in known.get(split, {}):
            raise damaged_record(path)
        if known[split]["checksum"] != entry["checksum"]:
            raise InputError(
                f"{entry['path']}: its content has changed since {run} started; "
                "restore the file, or add name=... for a new run"
            )
    write_atomically(path, json.dumps(data, indent=2))


def read_data(run: Path) -> DataRecord:
    """Read paths and checksums of a run's demonstrations (by split), tokenizer and encoder weights.

    Raises:
        InputError: the record is missing or damaged.
    """
    path = run / "data.json"
    try:
        data = read_json(path)
    except (OSError, ValueError):
        raise damaged_record(path) from None
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise damaged_record(path)
    return data


def damaged_record(path: Path) -> InputError:
    """InputError for a missing or damaged data.json."""
    return InputError(f"{path}: missing or damaged; remove it and run the training command again to rewrite it")
