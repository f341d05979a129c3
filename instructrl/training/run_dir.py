"""The run directory: its recorded settings and data, compared with those of a resumed run. Needs no jax.

`config.yaml` holds the settings, `data.json` paths and checksums of the data, `metrics.jsonl` the training curves,
`speed.jsonl` the throughput, `images.jsonl` the files of images if there are any, `checkpoints/` the state, `eval/`
evaluations, `extensions.json` the epochs after which the run was extended.
"""

import copy
import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypedDict

from omegaconf import OmegaConf

from instructrl.config.composition import with_current_names
from instructrl.config.kinds import without_unused
from instructrl.config.resolve import differences, resolve
from instructrl.config.training import TrainConfig, uses_cached_features
from instructrl.config.yaml_file import read_yaml
from instructrl.errors import InputError
from instructrl.storage.atomic import write_atomically
from instructrl.storage.json_file import read_json
from instructrl.storage.paths import StoragePath, storage_path
from instructrl.training.checkpointing.integrity import read_marker
from instructrl.training.monitoring.metric_files import METRICS_FILE, read_lines

EXTENSIONS = "extensions.json"
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
    "data.outside_workspace",  # predictions are always clipped
    "data.cache_dir",
    "data.cache_gb",
    "features_dir",
    "hardware.name",
    "hardware.platform",
    "hardware.prefetch",
    "hardware.feature_cache",
    "hardware.encode_batch",
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
    "sim.python",
    "sim.renderer",
    "sim.workers",
    "sim.timeout",
    "training.save_every",
    "training.keep_last",
    "training.keep_best",
    "training.rollout_every",
    "training.rollout_episodes",
    "training.log_every",
    "training.objective",
    "pretraining.num_visualized",
    "wandb.mode",
    "wandb.project",
    "wandb.entity",
    "wandb.group",
    "tensorboard.enabled",
    "trackio.enabled",
    "trackio.project",
    "trackio.space",
    "trackio.group",
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


def run_outputs(config: TrainConfig, run: Path) -> list[tuple[str, StoragePath]]:
    """The folders that a training writes besides the demonstrations, with the settings that name them."""
    return [("output_dir", run), *feature_outputs(config)]


def feature_outputs(config: TrainConfig) -> list[tuple[str, StoragePath]]:
    """The folder of cached features with its setting, unless they are beside the demonstrations or not used."""
    if config.features_dir is None or not uses_cached_features(config):
        return []
    return [("features_dir", storage_path(config.features_dir, config.data))]


def find_run(config: TrainConfig, run: Path | None = None) -> Path:
    """The run directory, existing or not; nothing is written. `run`: its local working copy, if there is one.

    Raises:
        InputError: the run was started with different settings, which are listed, other than more epochs for a run that
            has finished.
    """
    run = run or Path(config.output_dir) / config.name
    if (run / "config.yaml").exists():
        recorded = read_config(run)
        lines = differences(settings(recorded), settings(config))
        before, now = recorded.encoder.weights, config.encoder.weights
        if (before is None) != (now is None):  # files may move, which their checksums show; random weights are no file
            lines.insert(0, f"encoder.weights: {before} -> {now}")
        if [line.partition(":")[0] for line in lines] == ["training.epochs"]:
            check_extension(run, recorded.training.epochs, config.training.epochs)
        elif lines:
            raise InputError(
                f"{run}: was started with different settings ({'; '.join(lines)}); "
                "use the same ones to resume, add name=... for a separate run, or remove the directory"
            )
    return run


def check_extension(run: Path, epochs: int, requested: int) -> None:
    """Raise InputError unless a run of `epochs` epochs has finished, and more are requested.

    The learning rate schedule spans all epochs, so another number of them within a training would change its steps.
    """
    found = f"{run}: found training.epochs={requested} for a run of {epochs} epochs"
    others = "add name=... for a separate run, or remove the directory"
    if requested < epochs:
        raise InputError(f"{found}; allowed: {epochs}, or more to extend it when it has finished; {others}")
    if not has_finished(run, epochs):
        raise InputError(f"{found}, which has not finished; finish it with training.epochs={epochs} first, or {others}")


def has_finished(run: Path, epochs: int) -> bool:
    """Return True if there is a checkpoint of the end of a run's last epoch.

    Raises:
        InputError: metrics.jsonl is damaged.
    """
    lines = read_lines(run / METRICS_FILE)
    ends = [line["step"] for line in lines if line["split"] == "val" and line.get("epoch") == epochs]
    marker = read_marker(run / "checkpoints" / str(ends[-1])) if ends else {}
    return bool(marker) and not marker.get("custom_metadata")  # which one within an epoch has


def open_run(config: TrainConfig, run: Path | None = None) -> Path:
    """Create the run directory, or open one with the same settings, or fewer epochs, which is extended.

    Raises:
        InputError: the run was started with different settings, or cannot be written.
    """
    run = find_run(config, run)
    if not (run / "config.yaml").exists():
        write_config(run, config)
    elif config.training.epochs > (before := read_config(run)).training.epochs:
        extend_run(run, before, config.training.epochs)
    return run


def write_config(run: Path, config: TrainConfig) -> None:
    """Write the settings of a run.

    Raises:
        InputError: they cannot be written.
    """
    write_atomically(run / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))


def extend_run(run: Path, config: TrainConfig, epochs: int) -> None:
    """Record that a finished run with these settings is trained for more epochs from now on.

    Raises:
        InputError: a record is damaged, or cannot be written.
    """
    before = config.training.epochs
    write_atomically(run / EXTENSIONS, json.dumps({"epochs": [*extended_after(run, before), before]}) + "\n")
    write_config(run, dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs)))
    schedule = config.optimizer.schedule
    rate = "" if schedule == "constant" else f"; the learning rate now follows the {schedule} schedule of {epochs}"
    print(f"{run}: extended from {before} to {epochs} epochs{rate}", flush=True)


def extended_after(run: Path, epochs: int) -> list[int]:
    """The numbers of epochs after which a run, now of `epochs` epochs, had finished before; [] if only once.

    Raises:
        InputError: the record is damaged.
    """
    path = run / EXTENSIONS
    if not path.exists():
        return []
    try:
        found = read_json(path)["epochs"]
        return [number for number in found if 0 < number < epochs]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{path}: damaged; restore it, or remove it to forget that the run was extended") from None


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


def record_moved_files(run: Path, config: TrainConfig) -> None:
    """Record in config.yaml where the files now are whose contents are those with which the run started.

    Raises:
        InputError: it cannot be read or written.
    """
    recorded = read_config(run)
    moved = copy.deepcopy(recorded)
    for key in RECORDED_KEYS:
        group, name = key.split(".")
        setattr(getattr(moved, group), name, getattr(getattr(config, group), name))
    if moved != recorded:
        write_config(run, moved)


def damaged_record(path: Path) -> InputError:
    """InputError for a missing or damaged data.json."""
    return InputError(f"{path}: missing or damaged; remove it and run the training command again to rewrite it")
