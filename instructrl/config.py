"""The typed configuration: one dataclass per group of conf/, and the checks that types cannot express.

YAML holds only values. `resolve` merges a composed configuration into a fresh schema, checks every field
against its `allowed` metadata and then across groups, and returns plain dataclasses. No jax here: a bad
value answers at once.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instructrl.errors import InputError

EMBEDDED_TASKS = ("pick_and_lift", "push_button", "reach_target")
CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
RENDERERS = ("auto", "opengl", "raycast")
EVALUATION_ROWS = ("trained", "held_out", "removed", "swapped", "oracle")

T = TypeVar("T")


def one_of(*choices: str, default: Any = MISSING) -> Any:
    """A field that takes one of the given words."""
    return field(default=default, metadata={"choices": choices})


def number(default: Any = MISSING, *, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> Any:
    """A field that takes a finite number with low <= number <= high and number > above."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def words(*default: str, choices: tuple[str, ...]) -> Any:
    """A field that takes a list of distinct words, at least one."""
    return field(default_factory=lambda: list(default), metadata={"choices": choices})


@dataclass
class EncoderConfig:
    """From images and the instruction to features."""

    name: str = MISSING
    kind: str = one_of("scratch_tiny")
    dim: int = number(low=8, high=4096)  # width of patch tokens and of pooled features
    depth: int = number(low=0, high=64)  # mixing blocks after the patch embedding
    patch_size: int = number(low=4, high=64)  # pixels; the image size must be a multiple
    text: bool = True  # whether the instruction is read


@dataclass
class PolicyConfig:
    """The transformer over keyframe steps."""

    name: str = MISSING
    dim: int = number(low=8, high=4096)
    depth: int = number(low=1, high=64)
    heads: int = number(low=1, high=64)
    mlp_ratio: float = number(4.0, above=0, high=16)
    window: int | None = number(None, low=1)  # steps of history that are seen; null: the whole episode


@dataclass
class HeadConfig:
    """From the policy's prediction token to an action, and the losses' weights."""

    name: str = MISSING
    kind: str = one_of("regression", "spatial")
    dim: int = number(128, low=8, high=4096)  # width inside the head
    position_weight: float = number(3.0, low=0)
    rotation_weight: float = number(4.0, low=0)
    gripper_weight: float = number(1.0, low=0)
    heatmap_weight: float = number(1.0, low=0)  # spatial only: cross-entropy of the patch scores
    offset_weight: float = number(1.0, low=0)  # spatial only: place within the patch


@dataclass
class TaskConfig:
    """What is demonstrated, learnt and judged."""

    name: str = one_of(*EMBEDDED_TASKS)
    episodes: int = number(low=1)  # training demonstrations
    val_episodes: int = number(low=1)
    variations: list[int] | None = None  # null: all of the task's


@dataclass
class SimConfig:
    """The world and its cameras."""

    name: str = "tabletop"
    kind: str = one_of("tabletop", default="tabletop")
    cameras: list[str] = words("front", "left_shoulder", "right_shoulder", choices=CAMERAS)
    image_size: int = number(128, low=16, high=1024)  # pixels, square
    renderer: str = one_of(*RENDERERS, default="auto")
    workers: int | None = number(None, low=1, high=1024)  # processes; null: one per core
    timeout: float = number(60.0, above=0)  # seconds that one simulator call may take


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to zero."""

    name: str = MISSING
    kind: str = one_of("adamw", default="adamw")
    learning_rate: float = number(above=0, high=10)
    weight_decay: float = number(low=0, high=10)
    warmup_epochs: float = number(low=0)
    clip_norm: float = number(above=0)
    beta1: float = number(0.9, low=0, high=0.99999)
    beta2: float = number(0.999, low=0, high=0.99999)


@dataclass
class HardwareConfig:
    """Where and how fast; never what is computed."""

    name: str = MISSING
    platform: str = one_of("auto", "cpu", "gpu", "tpu", default="auto")
    precision: str = one_of("float32", "bfloat16", default="float32")  # of computation; parameters stay float32
    prefetch: int = number(2, low=1, high=64)  # batches prepared ahead of the step


@dataclass
class DataConfig:
    """Where demonstrations are stored."""

    dir: str = "data"


@dataclass
class TrainingConfig:
    """Behaviour cloning: how long and how often one looks up. `*_every` count epochs."""

    epochs: int = number(low=1)
    batch_size: int = number(low=1)  # sequences
    token_dropout: float = number(0.1, low=0, high=0.9)  # share of instruction tokens hidden while training
    validate_every: int = number(1, low=1)  # each validation also saves a checkpoint
    rollout_every: int = number(0, low=0)  # 0: never
    rollout_episodes: int = number(20, low=1)


@dataclass
class WandbConfig:
    """Weights & Biases; metrics are always written as JSON lines too."""

    mode: str = one_of("off", "offline", "online", default="off")
    project: str = "instructrl"
    entity: str | None = None


@dataclass
class TrainConfig:
    """`python train.py`."""

    name: str = MISSING
    seed: int = number(0, low=0, high=2**31 - 1)
    output_dir: str = "outputs"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class CollectConfig:
    """`python -m data_tools.collect`."""

    task: TaskConfig = field(default_factory=TaskConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    episodes: int | None = number(None, low=1)  # null: task.episodes
    val_episodes: int | None = number(None, low=1)  # null: task.val_episodes


@dataclass
class EvalConfig:
    """`python eval.py`; the model's, task's and simulator's settings come from the run."""

    run: str = MISSING
    episodes: int = number(200, low=1)
    seed: int = number(0, low=0, high=2**31 - 1)
    checkpoint: str = one_of("best", "last", default="best")
    rows: list[str] = words(*EVALUATION_ROWS, choices=EVALUATION_ROWS)
    videos: int = number(3, low=0, high=100)  # of successes, and as many of failures
    renderer: str | None = field(default=None, metadata={"choices": RENDERERS})  # null: the one of the data
    workers: int | None = number(None, low=1, high=1024)  # null: one per core
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


def resolve(config: DictConfig, schema: type[T]) -> T:
    """Merge a composed configuration into a fresh schema, check it and return plain dataclasses.

    Raises:
        InputError: an unknown key, a wrong type, a value out of range or groups that do not fit together.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        resolved = cast(T, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise InputError(explain(error, schema)) from None
    check_fields(resolved)
    check_groups(resolved)
    return resolved


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise InputError naming the first field that lies outside its `allowed` metadata."""
    for entry in dataclasses.fields(config):
        key, value = prefix + entry.name, getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            check_fields(value, key + ".")
        elif value is not None:
            check_field(key, value, entry.metadata)


def check_field(key: str, value: Any, allowed: Any) -> None:
    """Raise InputError if one value is not among the choices or outside the bounds of its metadata."""
    if "choices" in allowed:
        listed = value if isinstance(value, list) else [value]
        wrong = [word for word in listed if word not in allowed["choices"]]
        if wrong or not listed or len(set(listed)) < len(listed):
            several = " (a list without repetition, at least one)" if isinstance(value, list) else ""
            raise InputError(f"{key}: found {value}; allowed: {', '.join(allowed['choices'])}{several}")
    if "low" in allowed:
        low, high, above = allowed["low"], allowed["high"], allowed["above"]
        if not (math.isfinite(value) and low <= value <= high and value > above):
            bounds = [f">= {low}"] * (low > -math.inf) + [f"> {above}"] * (above > -math.inf)
            bounds += [f"<= {high}"] * (high < math.inf)
            raise InputError(f"{key}: found {value}; allowed: a number {' and '.join(bounds) or 'that is finite'}")


def check_groups(config: Any) -> None:
    """Raise InputError where groups that are right by themselves do not fit together."""
    if isinstance(config, TrainConfig):
        size, patch = config.sim.image_size, config.encoder.patch_size
        if size % patch:
            raise InputError(f"sim.image_size: found {size}; allowed: a multiple of encoder.patch_size={patch}")
        if patch % 4:
            raise InputError(f"encoder.patch_size: found {patch}; allowed: a multiple of 4")
        if config.policy.dim % config.policy.heads:
            raise InputError(f"policy.heads: found {config.policy.heads}; allowed: a divisor of policy.dim={config.policy.dim}")
        warmup, epochs = config.optimizer.warmup_epochs, config.training.epochs
        if warmup >= epochs:
            raise InputError(f"optimizer.warmup_epochs: found {warmup}; allowed: less than training.epochs={epochs}")
        if not config.name or Path(config.name).name != config.name:
            raise InputError(f"name: found {config.name!r}; allowed: a folder's name without slashes")
    if isinstance(config, EvalConfig) and "trained" not in config.rows:
        raise InputError(f"rows: found {config.rows}; allowed: lists with trained, the row of the headline")
    if isinstance(config, TrainConfig | CollectConfig):
        variations = config.task.variations
        if variations is not None and (not variations or min(variations) < 0 or len(set(variations)) < len(variations)):
            raise InputError(f"task.variations: found {variations}; allowed: null or a list of distinct numbers >= 0")


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of a schema, dotted, groups included."""
    keys = []
    for entry in dataclasses.fields(schema):
        keys.append(prefix + entry.name)
        if isinstance(entry.type, type) and dataclasses.is_dataclass(entry.type):
            keys += known_keys(entry.type, f"{prefix}{entry.name}.")
    return keys


def unknown_key(key: str, schema: type) -> str:
    """One line for a key that the schema does not have: the nearest known ones, or the siblings."""
    keys = known_keys(schema)
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.7)
    if near:
        return f"{key}: no such setting; did you mean {' or '.join(near)}?"
    parent = key.rpartition(".")[0]
    siblings = [known for known in keys if known.rpartition(".")[0] == parent] or [k for k in keys if "." not in k]
    return f"{key}: no such setting; allowed here: {', '.join(siblings)}"


def explain(error: OmegaConfBaseException, schema: type) -> str:
    """One line for an OmegaConf error: the key, what was found and what is allowed."""
    key = error.full_key or "configuration"
    message = str(error.msg or error).splitlines()[0]
    if "not in" in message and ("Key" in message or "key" in message):
        return unknown_key(key, schema)
    if "Missing mandatory value" in message:
        return f"{key}: no value given; add {key}=... to the command"
    return f"{key}: {message}; see python <command> --help for the settings"


def differences(found: Any, asked: Any, prefix: str = "") -> list[str]:
    """Lines `key: found -> asked` for every leaf in which two nested dicts differ, sorted by key."""
    lines = []
    for key in sorted(set(found) | set(asked)):
        before, after = found.get(key, "absent"), asked.get(key, "absent")
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
