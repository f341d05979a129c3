"""Typed configuration: one dataclass per group of conf/, and the checks that types cannot express.

YAML holds only values. `resolve` merges a composed configuration into a fresh schema, checks every field and then
constraints across groups, and returns plain dataclasses. No jax here: an invalid value is reported at once.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instructrl.errors import InputError
from instructrl.schema import (
    check_fields,
    check_literals,
    choice_list,
    choice_or_integers,
    explain,
    format_value,
    number,
    number_list,
    one_of,
    renamed_value,
    setting,
)

EMBEDDED_TASKS = (
    "meat_off_grill",
    "open_drawer",
    "phone_on_base",
    "pick_and_lift",
    "pick_up_cup",
    "push_button",
    "push_buttons",
    "put_knife_on_chopping_board",
    "put_money_in_safe",
    "put_rubbish_in_bin",
    "reach_target",
    "slide_block_to_target",
    "stack_blocks",
    "stack_wine",
    "take_lid_off_saucepan",
    "take_money_out_safe",
    "take_umbrella_out_of_umbrella_stand",
    "turn_tap",
)
CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist", "overhead")  # the last one on RLBench only
RENDERERS = ("auto", "opengl", "raycast")
RLBENCH_RENDERERS = ("rlbench_opengl", "rlbench_opengl3")  # CoppeliaSim's; auto: the latter, RLBench's own choice
EVALUATION_CONDITIONS = ("trained", "held_out_instructions", "no_instruction", "swapped_instruction", "oracle")
DEFAULT_PROTOCOL = "default"  # its evaluations are written to eval/ in the run directory, those of others to eval-NAME/

MAX_NAME_BYTES = 200  # file systems allow 255, and names of temporary files contain it
MAX_EPISODES = 1_000_000  # ranges of seeds of demonstrations and evaluations do not overlap
MAX_EPOCHS = 100_000
MAX_STEPS = 1_000_000_000
MAX_BATCH_SIZE = 65_536
MAX_VARIATION = 999_999

T = TypeVar("T")


@dataclass
class EncoderConfig:
    """Encoder of images and the instruction."""

    name: str = setting(help="label of the encoder in names of runs")
    kind: str = one_of("scratch_tiny", "m3ae", "clip", help="architecture")
    dim: int = number(low=8, high=4096, help="width of patch tokens and of pooled features")
    depth: int = number(low=0, high=64, help="transformer blocks after the patch embedding")
    heads: int = number(1, low=1, high=64, help="attention heads; unused by scratch_tiny")
    patch_size: int = number(low=4, high=64, help="patch side in pixels; must divide the image size")
    image_size: int | None = number(
        None, low=16, high=1024, help="side in pixels to which images are resized; null: unchanged"
    )
    text: bool = setting(True, help="condition on the instruction")
    text_dim: int | None = number(None, low=8, high=4096, help="width of CLIP's text tower; clip only")
    text_depth: int | None = number(None, low=1, high=64, help="blocks of CLIP's text tower; clip only")
    text_heads: int | None = number(None, low=1, high=64, help="attention heads of CLIP's text tower; clip only")
    projection: int | None = number(
        None, low=8, high=4096, help="dimension of CLIP's joint space of images and text; clip only"
    )
    layers: Any = choice_or_integers(
        "all", "last", default="last", low=0, high=63, help="layers whose pooled outputs are concatenated"
    )
    frozen: bool = setting(False, help="keep the encoder's weights fixed")
    weights: str | None = setting(
        None, help="file written by data_tools.weights; shipped: InstructRL's own; null: random initialization"
    )
    tokenizer: str = setting(
        "small", help="small: InstructRL's vocabulary; else a Hugging Face name, tokenizer.json, vocab.txt or folder"
    )
    text_length: int = number(32, low=2, high=512, help="maximum instruction length in tokens")


@dataclass
class PolicyConfig:
    """Causal transformer over the keyframe steps of an episode."""

    name: str = setting(help="label of the policy in names of runs")
    dim: int = number(low=8, high=4096, help="model width")
    depth: int = number(low=1, high=64, help="transformer blocks")
    heads: int = number(low=1, high=64, help="attention heads; must divide policy.dim")
    mlp_ratio: float = number(4.0, low=0.25, high=16, help="hidden width of the MLPs relative to policy.dim")
    window: int | None = number(
        None, low=1, high=1_000_000, help="context length in keyframe steps; null: the whole episode"
    )


@dataclass
class HeadConfig:
    """Action head on the policy's output token, and the weights of the losses."""

    name: str = setting(help="label of the head in names of runs")
    kind: str = one_of("regression", "discrete", "spatial", help="parameterization of the action")
    dim: int = number(128, low=8, high=4096, help="hidden width of the head")
    position_weight: float = number(3.0, low=0, help="weight of the position loss")
    rotation_weight: float = number(4.0, low=0, help="weight of the rotation loss")
    gripper_weight: float = number(1.0, low=0, help="weight of the gripper loss")
    heatmap_weight: float = number(1.0, low=0, help="weight of the patch classification loss; spatial only")
    offset_weight: float = number(1.0, low=0, help="weight of the within-patch offset loss; spatial only")
    position_bins: int = number(100, low=2, high=1000, help="position bins along each workspace axis; discrete only")
    rotation_bins: int = number(72, low=4, high=720, help="bins of each Euler angle over a full turn; discrete only")


@dataclass
class TaskConfig:
    """Task or set of tasks to demonstrate, learn and evaluate."""

    name: str = setting(help="embedded task, any RLBench task with sim=rlbench, or the label of a set in task.tasks")
    episodes: int = number(low=1, high=MAX_EPISODES, help="training demonstrations of each task")
    val_episodes: int = number(low=1, high=MAX_EPISODES, help="validation demonstrations of each task")
    variations: list[int] | None = setting(None, help="variations of a single task to demonstrate; null: all")
    tasks: list[str] | None = setting(None, help="tasks of a set; null: only task.name")
    weights: list[float] | None = number_list(
        above=0, high=1e6, help="relative share of each task in an epoch; null: every episode once per epoch"
    )


def task_names(task: TaskConfig) -> tuple[str, ...]:
    """Names of the tasks to demonstrate, learn and evaluate: those of a set, or the single one."""
    return (task.name,) if task.tasks is None else tuple(task.tasks)


@dataclass
class SimConfig:
    """Simulator and its cameras."""

    name: str = setting("tabletop", help="label of the simulator")
    kind: str = one_of(
        "tabletop", "rlbench", default="tabletop", help="embedded tabletop simulator, or RLBench on CoppeliaSim"
    )
    cameras: list[str] = choice_list(
        "front", "left_shoulder", "right_shoulder", choices=CAMERAS, help="cameras; overhead only with rlbench"
    )
    image_size: int = number(128, low=16, high=1024, help="side of the square camera images in pixels")
    renderer: str = one_of(
        *RENDERERS, *RLBENCH_RENDERERS, default="auto", help="renderer; auto: the best one available"
    )
    workers: int | None = number(None, low=1, high=1024, help="simulator processes; null: one per CPU core")
    timeout: float = number(60.0, above=0, high=86_400, help="seconds after which a simulator call counts as hung")
    planner_attempts: int = number(10, low=1, high=1000, help="path planning attempts for each keyframe; rlbench only")


@dataclass
class OptimizerConfig:
    """AdamW: learning rate schedule, weight decay and the encoder's learning rate."""

    name: str = setting(help="label of the optimizer in names of runs")
    kind: str = one_of("adamw", default="adamw", help="algorithm")
    learning_rate: float = number(above=0, high=10, help="peak learning rate, reached after the warm-up")
    base_batch_size: int | None = number(
        None,
        low=1,
        high=MAX_BATCH_SIZE,
        help="batch size that the learning rate is for; it is scaled linearly to training.batch_size. null: no scaling",
    )
    schedule: str = one_of(
        "cosine", "linear", "constant", default="cosine", help="decay of the learning rate from the warm-up to the end"
    )
    end_factor: float = number(0.0, low=0, high=1, help="final learning rate as a fraction of the peak")
    warmup_epochs: float | None = number(
        low=0, high=MAX_EPOCHS, help="epochs of linear warm-up; null with optimizer.warmup_steps"
    )
    warmup_steps: int | None = number(
        None, low=0, high=MAX_STEPS, help="steps of linear warm-up, instead of optimizer.warmup_epochs=null"
    )
    weight_decay: float = number(low=0, high=10, help="decoupled weight decay")
    decay: list[str] | None = setting(
        None, help="path patterns of the parameters with weight decay, like policy/*/kernel; null: all matrices"
    )
    layer_lr_decay: float = number(
        1.0,
        above=0,
        high=1,
        help="layer-wise learning rate decay of a trained encoder: block i of n learns at this^(n-i) of its rate",
    )
    encoder_lr_scale: float = number(
        1.0, above=0, high=100, help="learning rate of a trained encoder relative to the other parameters'"
    )
    clip_norm: float | None = number(above=0, high=1e9, help="global gradient norm to clip at; null: no clipping")
    beta1: float = number(0.9, low=0, high=0.99999, help="decay of Adam's first moment")
    beta2: float = number(0.999, low=0, high=0.99999, help="decay of Adam's second moment")
    ema: float | None = number(
        None,
        above=0,
        high=0.999999,
        help="decay of the parameters' moving average, used to validate and act; null: no average",
    )


@dataclass
class HardwareConfig:
    """Devices, precision and memory savings; results do not depend on them beyond rounding."""

    name: str = setting(help="label of the hardware option")
    platform: str = one_of("auto", "cpu", "gpu", "tpu", default="auto", help="jax platform; auto: jax's first choice")
    precision: str = one_of(
        "float32", "bfloat16", default="float32", help="dtype of computation; parameters stay float32"
    )
    attention: str = one_of(
        "auto", "xla", "cudnn", default="auto", help="attention kernel; auto: cuDNN's fused one where available"
    )
    remat: str = one_of(
        "none", "blocks", default="none", help="activations recomputed in the backward pass to save memory"
    )
    scan: bool = setting(False, help="compile one transformer block for all (lax.scan), to compile faster")
    prefetch: int = number(2, low=1, high=64, help="batches prepared ahead of the training step")
    fsdp: int = number(1, low=1, high=65_536, help="devices across which large matrices are sharded")
    accumulation: int = number(1, low=1, high=65_536, help="micro-batches per batch (gradient accumulation)")
    local_devices: int | None = number(None, low=1, high=1024, help="devices of each process; null: all visible ones")
    coordinator: str | None = setting(
        None, help="address of process 0 as host:port; auto: from SLURM or the TPU pod; null: a single process"
    )
    num_processes: int | None = number(
        None, low=1, high=65_536, help="number of processes that train together; only with coordinator=host:port"
    )
    process_id: int | None = number(
        None, low=0, high=65_535, help="index of this process; only with coordinator=host:port"
    )
    compilation_cache: str | None = setting(
        "~/.cache/instructrl/compiled", help="folder of the persistent compilation cache; null: no cache"
    )
    peak_flops: float | None = number(
        None, above=0, high=1e18, help="peak FLOP/s of one device, for the utilization; null: published value, if known"
    )
    profile: list[int] | None = setting(None, help="first and last step of a profiler trace, like [10,20]; null: none")


@dataclass
class DataConfig:
    """Storage of demonstrations: a local folder, or one in a bucket (gs://BUCKET/FOLDER, s3://BUCKET/FOLDER)."""

    dir: str = setting("data", help="folder of demonstrations, local or gs://... or s3://...")
    compression: str = one_of(
        "none", "lz4", "zstd", default="none", help="compression of images in demonstrations that are written"
    )
    cache_dir: str | None = setting(
        "~/.cache/instructrl", help="local cache of files in buckets; null: read them in range requests"
    )
    cache_gb: float = number(100.0, above=0, high=1e6, help="maximum size of that cache in GB")


@dataclass
class TrainingConfig:
    """Length of the training, and intervals in epochs (save_every and log_every: in steps)."""

    epochs: int = number(low=1, high=MAX_EPOCHS, help="number of epochs")
    batch_size: int = number(low=1, high=MAX_BATCH_SIZE, help="episodes per batch, over all devices and processes")
    max_instructions: int | None = number(
        None, low=1, high=1000, help="instructions to train on of each episode's, the first ones; null: all"
    )
    token_dropout: float | None = number(
        None,
        low=0,
        high=0.9,
        help="fraction of instruction tokens dropped; null: 0.1 with a trained encoder, 0 with a frozen one",
    )
    validate_every: int = number(
        1, low=1, high=MAX_EPOCHS, help="epochs between validations; each also saves a checkpoint"
    )
    save_every: int | None = number(
        None, low=1, high=MAX_STEPS, help="steps between additional checkpoints; null: none"
    )
    keep_last: int = number(1, low=1, high=MAX_EPOCHS, help="most recent checkpoints to keep")
    keep_best: int = number(1, low=1, high=MAX_EPOCHS, help="checkpoints with the lowest validation loss to keep")
    rollout_every: int = number(0, low=0, high=MAX_EPOCHS, help="epochs between rollouts in the simulator; 0: none")
    rollout_episodes: int = number(20, low=1, high=MAX_EPISODES, help="episodes of each task in such a rollout")
    log_every: int = number(0, low=0, high=MAX_EPISODES, help="steps between log entries; 0: one per epoch")
    freeze: list[str] | None = setting(
        None, help="path patterns of parameters to freeze, like [encoder,policy/block_0]; null: none"
    )
    reinit: list[str] | None = setting(
        None, help="path patterns of parameters to re-initialize instead of taking them from init_from; null: none"
    )


@dataclass
class PretrainingConfig:
    """Masked pretraining of an encoder on images and text, with objective=masked_pretraining."""

    train: list[str] | None = setting(None, help="training data: files or data sets of images and text (see README)")
    val: list[str] | None = setting(None, help="validation data, likewise")
    pair_rate: float = number(1.0, low=0, high=1e6, help="relative frequency of batches of image-text pairs")
    image_rate: float = number(0.0, low=0, high=1e6, help="relative frequency of batches of images only")
    text_rate: float = number(0.0, low=0, high=1e6, help="relative frequency of batches of text only")
    image_mask_ratio: float = number(0.75, low=0.01, high=0.99, help="fraction of image patches that is masked")
    text_mask_ratio: float = number(0.75, low=0.01, high=0.99, help="fraction of text tokens that is masked")
    image_weight: float = number(1.0, low=0, high=1e6, help="weight of the loss of masked patches")
    text_weight: float = number(0.5, low=0, high=1e6, help="weight of the loss of masked tokens")
    load_size: int | None = number(
        None,
        low=16,
        high=2048,
        help="side in pixels of the loaded images that are cropped; null: 8/7 of the image size",
    )
    crop_low: float = number(0.2, above=0, high=1, help="smallest crop area as a fraction of the loaded image")
    crop_high: float = number(
        1.0, above=0, high=1, help="largest crop area, likewise; no crops if this and crop_low are 1"
    )
    flip: bool = setting(False, help="mirror half of the images; wrong for text that says left and right")
    decoder_dim: int = number(512, low=8, high=4096, help="width of the decoder, which only pretraining uses")
    decoder_depth: int = number(8, low=1, high=64, help="transformer blocks of the decoder")
    decoder_heads: int = number(16, low=1, high=64, help="attention heads of the decoder")
    num_visualized: int = number(
        4, low=0, high=16, help="validation pairs drawn with their reconstruction after each validation"
    )


@dataclass
class WandbConfig:
    """Weights & Biases logging; metrics are always written as JSON lines too."""

    mode: str = one_of("off", "offline", "online", default="off", help="logging to Weights & Biases")
    project: str = setting("instructrl", help="W&B project")
    entity: str | None = setting(None, help="W&B user or team; null: the account's default")
    group: str | None = setting(None, help="W&B group of runs; null: the name of the sweep, if any")


@dataclass
class TrainConfig:
    """Settings of `python train.py`."""

    name: str = setting(help="name of the run; its directory is output_dir/name")
    seed: int = number(0, low=0, high=2**31 - 1, help="random seed of initialization, data order and augmentation")
    output_dir: str = setting("outputs", help="folder of run directories, local or gs://... or s3://...")
    objective: str = one_of(
        "behavior_cloning",
        "masked_pretraining",
        default="behavior_cloning",
        help="train an agent from demonstrations, or pretrain an encoder on images and text",
    )
    features: str = one_of(
        "auto",
        "cached",
        "live",
        default="auto",
        help="compute the encoder's features once, or in every step; auto: cached if the encoder is frozen",
    )
    features_dir: str | None = setting(None, help="folder of cached features; null: beside the demonstrations")
    init_from: str | None = setting(
        None, help="run directory or Agent.save folder to initialize the parameters from; null: none"
    )
    init_checkpoint: str = one_of("best", "last", default="best", help="checkpoint of that run")
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class CollectConfig:
    """Settings of `python -m data_tools.collect`."""

    task: TaskConfig = field(default_factory=TaskConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    episodes: int | None = number(
        None, low=1, high=MAX_EPISODES, help="training demonstrations of each task; null: task.episodes"
    )
    val_episodes: int | None = number(
        None, low=1, high=MAX_EPISODES, help="validation demonstrations of each task; null: task.val_episodes"
    )


@dataclass
class ProtocolConfig:
    """Evaluation protocol; success rates are comparable only within one protocol."""

    name: str = setting(help="name of the protocol and of its folder: eval for the default one, else eval-NAME")
    episodes: int = number(low=1, high=MAX_EPISODES, help="episodes of each task in each condition")
    seed: int = number(low=0, high=2**31 - 1, help="random seed of the scenes")
    conditions: list[str] = one_of(*EVALUATION_CONDITIONS, help="evaluation conditions, trained among them")
    variations: Any = choice_or_integers(
        "all",
        "trained",
        "held_out",
        default=MISSING,
        low=0,
        high=MAX_VARIATION,
        help="task variations to evaluate; trained: those of the run, held_out: all others",
    )
    order: str = one_of("in_turn", "shuffled", help="order of the variations; each comes once before any comes twice")
    sentence: str = one_of(
        "seed", "first", help="instruction of each episode: chosen by its seed, or the variation's first one"
    )
    max_keyframes: int | None = number(
        low=1, high=1000, help="maximum keyframes of an episode; null: the task's own limit"
    )
    max_unreachable: int = number(low=1, high=1000, help="number of unreachable actions after which the episode ends")


@dataclass
class EvalConfig:
    """Settings of `python eval.py`; those of model, task and simulator come from the run."""

    run: str = setting(help="run directory to evaluate, local or gs://... or s3://...")
    tasks: list[str] | None = setting(None, help="tasks of the run to evaluate; null: all")
    episodes: int | None = number(
        None, low=1, high=MAX_EPISODES, help="episodes of each task in each condition; null: protocol.episodes"
    )
    seed: int | None = number(None, low=0, high=2**31 - 1, help="random seed of the scenes; null: protocol.seed")
    conditions: list[str] | None = one_of(
        *EVALUATION_CONDITIONS, default=None, help="evaluation conditions; null: protocol.conditions"
    )
    checkpoint: str = one_of("best", "last", default="best", help="checkpoint of the run")
    videos: int | None = number(
        None,
        low=0,
        high=100,
        help="videos of each task's successes, and of its failures; null: 3, or 1 for a set of tasks",
    )
    renderer: str | None = one_of(
        *RENDERERS, *RLBENCH_RENDERERS, default=None, help="renderer; null: the one of the training data"
    )
    workers: int | None = number(None, low=1, high=1024, help="simulator processes; null: one per CPU core")
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


def effective_protocol(config: EvalConfig) -> ProtocolConfig:
    """The protocol with the overrides beside it: `episodes`, `seed` and `conditions` take precedence."""
    overrides: dict[str, Any] = {"episodes": config.episodes, "seed": config.seed, "conditions": config.conditions}
    return replace(config.protocol, **{key: value for key, value in overrides.items() if value is not None})


def protocol_record(protocol: ProtocolConfig) -> dict[str, Any]:
    """A protocol as results.json and episodes.jsonl record it: two settings under the names that they had first."""
    names = {"max_keyframes": "keyframes", "max_unreachable": "tries"}
    return {names.get(key, key): value for key, value in asdict(protocol).items()}


def resolve(config: DictConfig, schema: type[T]) -> T:
    """Merge a composed configuration into a fresh schema, check it and return plain dataclasses.

    Raises:
        InputError: an unknown key, a wrong type, a value out of range or groups that do not fit together.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        check_literals(values)
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        resolved = cast(T, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise InputError(explain(error, schema)) from None
    check_fields(resolved)
    check_groups(resolved)
    return resolved


def check_groups(config: Any) -> None:
    """Raise InputError if settings that are valid by themselves do not fit together."""
    if isinstance(config, TrainConfig):
        check_dimensions(config.encoder, config.policy, image_size=config.sim.image_size)
        check_features(config)
        check_reinit(config.training, init_from=config.init_from)
        check_optimizer(config.optimizer, config.encoder, epochs=config.training.epochs)
        check_objective(config)
        check_name(config.name)
    if isinstance(config, TrainConfig | EvalConfig):
        check_attention(config.hardware)
        check_processes(config.hardware)
    if isinstance(config, TrainConfig) and config.hardware.coordinator and "://" in config.output_dir:
        raise InputError(f"output_dir: found {config.output_dir}; allowed: a folder that all processes share")
    if isinstance(config, EvalConfig) and config.hardware.coordinator:
        raise InputError(f"hardware.coordinator: found {config.hardware.coordinator}; allowed: null for eval.py")
    if isinstance(config, EvalConfig):
        for key, names in (("protocol.conditions", config.protocol.conditions), ("conditions", config.conditions)):
            if names is not None and "trained" not in names:
                raise InputError(f"{key}: found {names}; allowed: lists with trained, the condition of the headline")
        check_name(config.protocol.name, key="protocol.name")
        renamed = renamed_value("protocol.name", config.protocol.name)
        if renamed:
            raise InputError(f"protocol.name: found {config.protocol.name} ({renamed}); allowed: any other name")
    if isinstance(config, TrainConfig | EvalConfig):
        check_profile(config.hardware)
    if isinstance(config, TrainConfig | CollectConfig):
        check_task(config.task, config.sim)
        check_cameras(config.sim)


def check_task(task: TaskConfig, sim: SimConfig) -> None:
    """Raise InputError if the simulator has no such task, or the settings of a set of tasks do not fit together."""
    names, variations = task_names(task), task.variations
    key, alternative = ("task.tasks", "") if task.tasks else ("task.name", ", or any name with a set in task.tasks")
    for name in names:
        if sim.kind == "tabletop" and name not in EMBEDDED_TASKS:
            allowed = f"{', '.join(EMBEDDED_TASKS)}{alternative}, or a task of RLBench with sim=rlbench"
            raise InputError(f"{key}: found {format_value(name)}; allowed: {allowed}")
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise InputError(
                f"{key}: found {format_value(name)}; allowed: the name of a task of RLBench, like close_jar"
            )
    if variations is not None and min(variations) < 0:
        raise InputError(f"task.variations: found {format_value(variations)}; allowed: null or a list of numbers >= 0")
    if variations is not None and len(names) > 1:
        found = f"{format_value(variations)} for {len(names)} tasks"
        raise InputError(f"task.variations: found {found}; allowed: null, or choose one task")
    check_weights(task)


def check_weights(task: TaskConfig) -> None:
    """Raise InputError unless each task of a set has a weight, and an epoch at least one episode of each."""
    if task.weights is None:
        return
    found = f"task.weights: found {format_value(task.weights)}"
    if task.tasks is None:
        raise InputError(f"{found}; allowed: null without a set in task.tasks")
    if len(task.weights) != len(task.tasks):
        raise InputError(f"{found}; allowed: null, or a number for each of task.tasks={format_value(task.tasks)}")
    epoch, total = len(task.tasks) * task.episodes, sum(map(Fraction, task.weights))
    for name, weight in zip(task.tasks, task.weights, strict=True):
        if Fraction(weight) * epoch < total:
            least = f"at least {float(total / epoch):.6g} for {name}, one of an epoch's {epoch} sequences"
            raise InputError(f"{found}; allowed: {least}, or more task.episodes")


def check_cameras(sim: SimConfig) -> None:
    """Raise InputError if the simulator has no such camera or renderer."""
    embedded = sim.kind == "tabletop"
    if embedded and "overhead" in sim.cameras:
        raise InputError(f"sim.cameras: found {format_value(sim.cameras)}; allowed: overhead only with sim=rlbench")
    renderers = RENDERERS if embedded else ("auto", *RLBENCH_RENDERERS)
    if sim.renderer not in renderers:
        raise InputError(f"sim.renderer: found {sim.renderer}; allowed with sim={sim.kind}: {', '.join(renderers)}")


def check_dimensions(encoder: EncoderConfig, policy: PolicyConfig, *, image_size: int) -> None:
    """Raise InputError if the sizes of images, patches, layers and attention heads do not divide each other."""
    check_encoder(encoder, image_size)
    if policy.dim % 2:
        raise InputError(f"policy.dim: found {policy.dim}; allowed: an even number")
    if policy.dim % policy.heads:
        raise InputError(f"policy.heads: found {policy.heads}; allowed: a divisor of policy.dim={policy.dim}")


def check_encoder(encoder: EncoderConfig, image_size: int) -> None:
    """Raise InputError if an encoder's sizes do not fit together, or not to camera images of `image_size` pixels."""
    patch, size = encoder.patch_size, encoder.image_size or image_size
    key = "encoder.image_size" if encoder.image_size else "sim.image_size"
    if encoder.kind == "scratch_tiny" and patch % 4:
        raise InputError(f"encoder.patch_size: found {patch}; allowed: a multiple of 4")
    if size % patch:
        raise InputError(f"{key}: found {size}; allowed: a multiple of encoder.patch_size={patch}")
    if encoder.kind != "scratch_tiny" and encoder.depth < 1:
        raise InputError(f"encoder.depth: found {encoder.depth}; allowed: at least 1 for {encoder.kind}")
    if encoder.kind != "clip" and encoder.dim % 4:
        raise InputError(f"encoder.dim: found {encoder.dim}; allowed: a multiple of 4")
    if encoder.dim % encoder.heads:
        raise InputError(f"encoder.heads: found {encoder.heads}; allowed: a divisor of encoder.dim={encoder.dim}")
    pooled_layers(encoder)
    if encoder.kind == "clip":
        check_clip(encoder)


def check_clip(encoder: EncoderConfig) -> None:
    """Raise InputError if settings of CLIP's text tower are missing or do not divide each other."""
    for key in ("text_dim", "text_depth", "text_heads", "projection", "image_size"):
        if getattr(encoder, key) is None:
            raise InputError(f"encoder.{key}: found null; allowed: a number, which kind=clip needs")
    dim, heads = encoder.text_dim or 0, encoder.text_heads or 1
    if dim % heads:
        raise InputError(f"encoder.text_heads: found {heads}; allowed: a divisor of encoder.text_dim={dim}")


def pooled_layers(encoder: EncoderConfig) -> tuple[int, ...]:
    """Indices of the layers whose pooled outputs are features; the last is the encoder's normalized output.

    Raises:
        InputError: a layer index is out of range.
    """
    count = max(encoder.depth, 1)
    if encoder.layers == "last":
        return (count - 1,)
    if encoder.layers == "all":
        return tuple(range(count))
    if max(encoder.layers) >= count:
        allowed = f"all, last, or a list of integers from 0 to {count - 1}"
        raise InputError(f"encoder.layers: found {format_value(encoder.layers)}; allowed: {allowed}")
    return tuple(encoder.layers)


def uses_cached_features(config: TrainConfig) -> bool:
    """Return True if training reads precomputed features instead of images."""
    return config.features == "cached" or (config.features == "auto" and config.encoder.frozen)


def token_dropout_rate(training: TrainingConfig, encoder: EncoderConfig) -> float:
    """Fraction of instruction tokens dropped in training: by default 0.1 for a trained encoder, 0 for a frozen one."""
    chosen = training.token_dropout
    return chosen if chosen is not None else 0.0 if encoder.frozen else 0.1


def check_processes(hardware: HardwareConfig) -> None:
    """Raise InputError if the settings of multi-process training are incomplete or contradictory."""
    address, keys = hardware.coordinator, ("num_processes", "process_id")
    given = [key for key in keys if getattr(hardware, key) is not None]
    if address in (None, "auto"):
        for key in given:
            without = "without hardware.coordinator=host:port"
            raise InputError(f"hardware.{key}: found {getattr(hardware, key)}; allowed: null {without}")
        return
    if not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address or ""):
        raise InputError(f"hardware.coordinator: found {format_value(address)}; allowed: host:port, auto, or null")
    for key in keys:
        if key not in given:
            raise InputError(f"hardware.{key}: found null; allowed: a number with hardware.coordinator={address}")
    if (hardware.process_id or 0) >= (hardware.num_processes or 0):
        found = f"hardware.process_id: found {hardware.process_id}"
        raise InputError(f"{found}; allowed: at least 0 and less than hardware.num_processes={hardware.num_processes}")


def check_attention(hardware: HardwareConfig) -> None:
    """Raise InputError if cuDNN attention is combined with a precision that it does not support."""
    if hardware.attention == "cudnn" and hardware.precision != "bfloat16":
        raise InputError("hardware.attention: found cudnn; allowed: auto or xla, or hardware.precision=bfloat16 too")


def check_optimizer(optimizer: OptimizerConfig, encoder: EncoderConfig, *, epochs: int) -> None:
    """Raise InputError if the optimizer's settings do not fit together, or concern an encoder that is frozen."""
    warmup, steps = optimizer.warmup_epochs, optimizer.warmup_steps
    if warmup is None and steps is None:
        raise InputError("optimizer.warmup_epochs: found null; allowed: a number, or one for optimizer.warmup_steps")
    if warmup is not None and steps is not None:
        other = f"null with optimizer.warmup_epochs={warmup:g}, which may be null instead"
        raise InputError(f"optimizer.warmup_steps: found {steps}; allowed: {other}")
    if warmup is not None and warmup >= epochs:
        raise InputError(f"optimizer.warmup_epochs: found {warmup}; allowed: less than training.epochs={epochs}")
    if optimizer.schedule == "constant" and optimizer.end_factor:
        raise InputError(
            f"optimizer.end_factor: found {optimizer.end_factor:g}; allowed: 0 with optimizer.schedule=constant"
        )
    for key in ("layer_lr_decay", "encoder_lr_scale"):
        if encoder.frozen and getattr(optimizer, key) != 1:
            raise InputError(f"optimizer.{key}: found {getattr(optimizer, key):g}; allowed: 1 with encoder.frozen=true")


def check_features(config: TrainConfig) -> None:
    """Raise InputError if features are to be cached although they change during training."""
    if not uses_cached_features(config):
        return
    if not config.encoder.frozen:
        raise InputError("features: found cached; allowed: auto or live for an encoder that is not frozen")
    if token_dropout_rate(config.training, config.encoder) > 0:
        raise InputError(
            f"training.token_dropout: found {config.training.token_dropout}; "
            "allowed: null or 0 with cached features, or add features=live"
        )


def check_objective(config: TrainConfig) -> None:
    """Raise InputError if settings do not apply to the objective, or those of pretraining do not fit together."""
    options = config.pretraining
    if config.objective == "behavior_cloning":
        for key in ("train", "val"):
            if getattr(options, key) is not None:
                found = format_value(getattr(options, key))
                raise InputError(
                    f"pretraining.{key}: found {found}; allowed: null, or add objective=masked_pretraining"
                )
        return
    encoder, training = config.encoder, config.training
    if encoder.kind != "m3ae":
        raise InputError(
            f"encoder.kind: found {encoder.kind}; allowed with objective=masked_pretraining: m3ae, "
            "as in encoder=m3ae_s16"
        )
    unwanted: tuple[tuple[str, Any, Any], ...] = (
        ("encoder.text", encoder.text, True),
        ("encoder.frozen", encoder.frozen, False),
        ("init_from", config.init_from, None),
        ("training.freeze", training.freeze, None),
        ("training.token_dropout", training.token_dropout, None),
        ("training.max_instructions", training.max_instructions, None),
        ("training.rollout_every", training.rollout_every, 0),
    )
    for key, found, wanted in unwanted:
        if found != wanted:
            raise InputError(
                f"{key}: found {format_value(found)}; allowed: {format_value(wanted)} with objective=masked_pretraining"
            )
    for key in ("train", "val"):
        if getattr(options, key) is None:
            raise InputError(f"pretraining.{key}: found null; allowed: a list of files or data sets (see README.md)")
    check_decoder(options)


def check_decoder(options: PretrainingConfig) -> None:
    """Raise InputError if pretraining has no loss, no batches, no crops, or an impossible decoder."""
    pairs = options.pair_rate > 0
    sees, reads = ((rate > 0 or pairs) for rate in (options.image_rate, options.text_rate))
    if not (sees or reads):
        raise InputError("pretraining.pair_rate: found 0 as all three rates; allowed: one of them above 0")
    if not ((sees and options.image_weight) or (reads and options.text_weight)):
        key = "image_weight" if sees else "text_weight"
        raise InputError(f"pretraining.{key}: found 0; allowed: above 0, since there is no other loss")
    if options.crop_low > options.crop_high:
        found = f"found {options.crop_low:g}"
        raise InputError(f"pretraining.crop_low: {found}; allowed: at most pretraining.crop_high={options.crop_high:g}")
    if options.decoder_dim % 4:
        raise InputError(f"pretraining.decoder_dim: found {options.decoder_dim}; allowed: a multiple of 4")
    if options.decoder_dim % options.decoder_heads:
        allowed = f"a divisor of pretraining.decoder_dim={options.decoder_dim}"
        raise InputError(f"pretraining.decoder_heads: found {options.decoder_heads}; allowed: {allowed}")


def pretraining_image_size(config: TrainConfig) -> int:
    """Side in pixels of the images that the encoder is pretrained on."""
    return config.encoder.image_size or config.sim.image_size


def loaded_image_size(config: TrainConfig) -> int:
    """Side in pixels of the loaded images from which crops are taken."""
    return config.pretraining.load_size or round(pretraining_image_size(config) * 8 / 7)


def batch_kind_rates(options: PretrainingConfig) -> dict[str, float]:
    """Relative frequency of batches of each kind."""
    return {"pair": options.pair_rate, "image": options.image_rate, "text": options.text_rate}


def check_profile(hardware: HardwareConfig) -> None:
    """Raise InputError unless the profiled steps are a first and a last one."""
    window = hardware.profile
    if window is not None and not (len(window) == 2 and 0 <= window[0] < window[1]):
        allowed = "null, or the first and the last step, like [10,20]"
        raise InputError(f"hardware.profile: found {format_value(window)}; allowed: {allowed}")


def check_reinit(training: TrainingConfig, *, init_from: str | None) -> None:
    """Raise InputError if parameters are to be re-initialized although none come from another run."""
    if training.reinit is not None and init_from is None:
        found = format_value(training.reinit)
        raise InputError(f"training.reinit: found {found}; allowed: null without init_from, as all are initialized")


def check_name(name: str, *, key: str = "name") -> None:
    """Raise InputError for a name that cannot be the name of a folder."""
    if set(name) & set("/\\") or name.startswith(".") or len(name.encode()) > MAX_NAME_BYTES:
        allowed = f"a folder's name without slashes or a dot in front, at most {MAX_NAME_BYTES} bytes"
        raise InputError(f"{key}: found {format_value(name)}; allowed: {allowed}")


def check_distinct_outputs(configs: Sequence[Any]) -> None:
    """Raise InputError if two jobs of one command would write into the same directory."""
    names = [(config.output_dir, config.name) for config in configs if isinstance(config, TrainConfig)]
    for index, name in enumerate(names):
        if name in names[:index]:
            found = f"{format_value(name[1])} for jobs {names.index(name) + 1} and {index + 1}"
            raise InputError(f"name: found {found}; include what varies, such as 'name=${{task.name}}-${{seed}}'")
    folders = [(config.run, config.protocol.name) for config in configs if isinstance(config, EvalConfig)]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            first = folders.index(folder) + 1
            found = f"{format_value(folder[1])} for jobs {first} and {index + 1}, which evaluate {folder[0]}"
            raise InputError(f"protocol.name: found {found}; vary it too, or run these jobs in separate commands")


def differences(found: Any, expected: Any, prefix: str = "") -> list[str]:
    """Lines `key: found -> expected` for every leaf in which two nested dicts differ, sorted by key."""
    lines = []
    for key in sorted(set(found) | set(expected)):
        before, after = found.get(key, "absent"), expected.get(key, "absent")
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
