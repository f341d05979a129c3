"""The run directory: what it was made with, and whether the same is asked again. Needs no jax.

`config.yaml` holds the settings, `data.json` the demonstrations, `metrics.jsonl` the curves,
`speed.jsonl` how fast it went, `checkpoints/` the state, `eval/` the judgement.
"""

import copy
import dataclasses
import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from instructrl.config import TrainConfig, differences, resolve
from instructrl.data.storage import Place, place
from instructrl.errors import InputError

RECORDED_KEYS = ("encoder.weights", "pretraining.train", "pretraining.val")  # a run keeps the sum of what lies there
FREE_KEYS = (  # may change from one start to the next: they say where, how fast and how watched, not what is computed
    *RECORDED_KEYS,
    "output_dir",
    "data.dir",
    "data.compression",  # of the pixels, which stay the same
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
    "hardware.processes",
    "hardware.process",
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
    "pretraining.pictures",
    "wandb.mode",
    "wandb.project",
    "wandb.entity",
    "wandb.group",
)


def write_atomically(path: Path, text: str, *, elsewhere: str = "choose another output_dir") -> None:
    """Write a file so that it is there whole or not at all; `elsewhere` says how to name another place.

    Raises:
        InputError: the directory cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may never have been there
            temporary.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or {elsewhere}") from None


def settings(config: TrainConfig, *, without: Collection[str] = FREE_KEYS) -> dict[str, Any]:
    """The settings that decide what is computed, as nested dicts."""
    values = copy.deepcopy(dataclasses.asdict(config))
    for key in without:
        *groups, last = key.split(".")
        target = values
        for group in groups:
            target = target[group]
        del target[last]
    return values


def run_place(config: TrainConfig) -> Place:
    """Where the run is kept."""
    return place(config.output_dir, config.data) / config.name


def find_run(config: TrainConfig, run: Path | None = None) -> Path:
    """The run's directory, there or not; nothing is written. `run`: where it is worked on, if not where it is kept.

    Raises:
        InputError: it was made with other settings, which are named.
    """
    run = run or Path(config.output_dir) / config.name
    if (run / "config.yaml").exists():
        lines = differences(settings(read_config(run)), settings(config))
        if lines:
            raise InputError(
                f"{run}: made with other settings ({'; '.join(lines)}); "
                "take the same ones to resume, add name=... for a run of its own, or remove the directory"
            )
    return run


def open_run(config: TrainConfig, run: Path | None = None) -> Path:
    """The run's directory, made by the same settings or new.

    Raises:
        InputError: it was made with other settings, or cannot be written.
    """
    run = find_run(config, run)
    recorded = run / "config.yaml"
    if not recorded.exists():
        write_atomically(recorded, OmegaConf.to_yaml(OmegaConf.structured(config)))
    return run


def read_config(run: Path) -> TrainConfig:
    """The settings that a run was made with.

    Raises:
        InputError: there is no run, or its config.yaml cannot be read.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: no config.yaml there; give the directory of a run, such as run=outputs/NAME")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); train again") from None
    if not isinstance(loaded, DictConfig) or not loaded:
        raise InputError(f"{path}: found no settings in it; train again")
    try:
        return resolve(loaded, TrainConfig)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check_agent(config: TrainConfig, run: Place, *, key: str) -> None:
    """Raise InputError if a run pretrained an encoder; `key` is the setting that names it."""
    if config.objective == "masked":
        raise InputError(
            f"{key}: found {run}, which pretrained an encoder and holds no agent; "
            f"train one with encoder={config.encoder.name} encoder.weights={run / 'encoder.safetensors'}"
        )


def record_data(run: Path, data: dict[str, dict[str, Any]]) -> None:
    """Note which demonstrations, which tokenizer, and which encoder weights the run learns from.

    Raises:
        InputError: the run began with other ones.
    """
    path = run / "data.json"
    known = read_data(run) if path.exists() else data
    for split, entry in data.items():
        if "checksum" not in known.get(split, {}):
            raise damaged(path)
        if known[split]["checksum"] != entry["checksum"]:
            raise InputError(
                f"{entry['path']}: its content is not what {run} began with; "
                "restore the file, or add name=... for a new run"
            )
    write_atomically(path, json.dumps(data, indent=2))


def read_data(run: Path) -> dict[str, dict[str, Any]]:
    """Path and checksum of what a run learnt from: each split's demonstrations, tokenizer, and encoder's weights.

    Raises:
        InputError: there is no such record, or it is damaged.
    """
    path = run / "data.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise damaged(path) from None
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise damaged(path)
    return data


def damaged(path: Path) -> InputError:
    """The error for a record of the data that is of no use."""
    return InputError(f"{path}: missing or damaged; remove it and start the training again to write it")
