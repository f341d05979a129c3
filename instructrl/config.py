"""The typed configuration: one dataclass per group of conf/, and the checks that types cannot express.

YAML holds only values. `resolve` merges a composed configuration into a fresh schema, checks every field
and then what goes across groups, and returns plain dataclasses. No jax here: a bad value answers at once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instructrl.errors import InputError
from instructrl.schema import check_fields, explain, number, numbers, one_of, shown, words, words_or_numbers

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
EVALUATION_ROWS = ("trained", "held_out", "removed", "swapped", "oracle")
HOUSE_PROTOCOL = "ours"  # the one whose evaluations lie in a run's eval/ itself

LONGEST_NAME = 200  # bytes; file systems allow 255, and temporary files are named after it
MOST_EPISODES = 1_000_000  # each has seeds of its own, for demonstrations as for evaluation
MOST_EPOCHS = 100_000
MOST_STEPS = 1_000_000_000
MOST_SEQUENCES = 65_536  # of a batch
MOST_VARIATIONS = 999_999

T = TypeVar("T")


@dataclass
class EncoderConfig:
    """From images and the instruction to features."""

    name: str = MISSING
    kind: str = one_of("scratch_tiny", "m3ae", "clip")
    dim: int = number(low=8, high=4096)  # width of patch tokens and of pooled features
    depth: int = number(low=0, high=64)  # blocks after the patch embedding
    heads: int = number(1, low=1, high=64)  # of attention; scratch_tiny has none
    patch_size: int = number(low=4, high=64)  # pixels; the image size must be a multiple
    image_size: int | None = number(None, low=16, high=1024)  # pixels to which images are resized; null: as they come
    text: bool = True  # whether the instruction is read
    text_dim: int | None = number(None, low=8, high=4096)  # clip's text tower: width,
    text_depth: int | None = number(None, low=1, high=64)  # blocks,
    text_heads: int | None = number(None, low=1, high=64)  # and heads of attention
    projection: int | None = number(None, low=8, high=4096)  # clip's common space of images and sentences
    layers: Any = words_or_numbers("all", "last", default="last", low=0, high=63)  # pooled, and concatenated
    frozen: bool = False  # whether it stays as its weights are
    weights: str | None = None  # a file made by data_tools.weights; shipped: that of the suite; null: random, by seed
    tokenizer: str = "small"  # ours; or a Hugging Face name, a tokenizer.json, a vocab.txt, a folder
    text_length: int = number(32, low=2, high=512)  # tokens in which an instruction must fit


@dataclass
class PolicyConfig:
    """The transformer over keyframe steps."""

    name: str = MISSING
    dim: int = number(low=8, high=4096)
    depth: int = number(low=1, high=64)
    heads: int = number(low=1, high=64)
    mlp_ratio: float = number(4.0, low=0.25, high=16)
    window: int | None = number(None, low=1, high=1_000_000)  # steps of history that are seen; null: the whole episode


@dataclass
class HeadConfig:
    """From the policy's prediction token to an action, and the losses' weights."""

    name: str = MISSING
    kind: str = one_of("regression", "discrete", "spatial")
    dim: int = number(128, low=8, high=4096)  # width inside the head
    position_weight: float = number(3.0, low=0)
    rotation_weight: float = number(4.0, low=0)
    gripper_weight: float = number(1.0, low=0)
    heatmap_weight: float = number(1.0, low=0)  # spatial only: cross-entropy of the patch scores
    offset_weight: float = number(1.0, low=0)  # spatial only: place within the patch
    position_bins: int = number(100, low=2, high=1000)  # discrete only: along each axis of the workspace
    rotation_bins: int = number(72, low=4, high=720)  # discrete only: of each Euler angle, over a full turn


@dataclass
class TaskConfig:
    """What is demonstrated, learnt and judged."""

    name: str = MISSING  # of EMBEDDED_TASKS, or with sim=rlbench any of RLBench's; a set's label
    episodes: int = number(low=1, high=MOST_EPISODES)  # training demonstrations, of each task
    val_episodes: int = number(low=1, high=MOST_EPISODES)
    variations: list[int] | None = None  # of one task; null: all of them
    tasks: list[str] | None = None  # of a set; null: just `name`
    weights: list[float] | None = numbers(above=0, high=1e6)  # shares of an epoch; null: every episode once per epoch


def task_names(task: TaskConfig) -> tuple[str, ...]:
    """The tasks that are demonstrated, learnt and judged: those of a set, or the one."""
    return (task.name,) if task.tasks is None else tuple(task.tasks)


@dataclass
class SimConfig:
    """The world and its cameras."""

    name: str = "tabletop"
    kind: str = one_of("tabletop", "rlbench", default="tabletop")
    cameras: list[str] = words("front", "left_shoulder", "right_shoulder", choices=CAMERAS)
    image_size: int = number(128, low=16, high=1024)  # pixels, square
    renderer: str = one_of(*RENDERERS, *RLBENCH_RENDERERS, default="auto")
    workers: int | None = number(None, low=1, high=1024)  # processes; null: one per core
    timeout: float = number(60.0, above=0, high=86_400)  # seconds that one simulator call may take
    tries: int = number(10, low=1, high=1000)  # rlbench only: how often its planner looks for a way to one keyframe


@dataclass
class OptimizerConfig:
    """AdamW: the learning rate's course, which parameters decay, and how fast an encoder learns."""

    name: str = MISSING
    kind: str = one_of("adamw", default="adamw")
    learning_rate: float = number(above=0, high=10)  # after the warm-up
    base_batch: int | None = number(None, low=1, high=MOST_SEQUENCES)  # that it is for, times batch / base; null: any
    schedule: str = one_of("cosine", "linear", "constant", default="cosine")  # after the warm-up, to the last step
    end_share: float = number(0.0, low=0, high=1)  # of the learning rate, that is left at the end
    warmup_epochs: float | None = number(low=0, high=MOST_EPOCHS)  # in which it rises from zero; either these
    warmup_steps: int | None = number(None, low=0, high=MOST_STEPS)  # or these, the other null
    weight_decay: float = number(low=0, high=10)
    decay: list[str] | None = None  # patterns of the parameters that decay (training/paths.py); null: all matrices
    layer_decay: float = number(1.0, above=0, high=1)  # of a trained encoder's block i of n: the rate times this^(n-i)
    encoder_rate: float = number(1.0, above=0, high=100)  # of a trained encoder: its rate is the others' times this
    clip_norm: float | None = number(above=0, high=1e9)  # of all gradients together; null: as they come
    beta1: float = number(0.9, low=0, high=0.99999)
    beta2: float = number(0.999, low=0, high=0.99999)
    ema: float | None = number(None, above=0, high=0.999999)  # average of the parameters, which validates and acts


@dataclass
class HardwareConfig:
    """Where and how fast; never what is computed."""

    name: str = MISSING
    platform: str = one_of("auto", "cpu", "gpu", "tpu", default="auto")
    precision: str = one_of("float32", "bfloat16", default="float32")  # of computation; parameters stay float32
    attention: str = one_of("auto", "xla", "cudnn", default="auto")  # auto: cudnn's fused one where it can be had
    remat: str = one_of("none", "blocks", default="none")  # what is computed again for the gradient, to save memory
    scan: bool = False  # whether one transformer block is compiled for all, to save time at the start
    prefetch: int = number(2, low=1, high=64)  # batches prepared ahead of the step
    fsdp: int = number(1, low=1, high=65_536)  # devices that share out the large matrices; the batch is for all
    accumulation: int = number(1, low=1, high=65_536)  # parts of a batch that are computed one after another
    local_devices: int | None = number(None, low=1, high=1024)  # of each process; null: all that jax sees
    coordinator: str | None = None  # process 0 as host:port; auto: as SLURM or a TPU pod tell; null: one process
    processes: int | None = number(None, low=1, high=65_536)  # that train together, with host:port
    process: int | None = number(None, low=0, high=65_535)  # the number of this one
    compilation_cache: str | None = "~/.cache/instructrl/compiled"  # compiled programs are kept there; null: nowhere
    peak_flops: float | None = number(None, above=0, high=1e18)  # of one device, a second; null: as published, if known
    profile: list[int] | None = None  # first and last step of a trace for jax's profiler; null: none


@dataclass
class DataConfig:
    """Where demonstrations are stored: a folder, or one in a bucket (gs://BUCKET/FOLDER, s3://BUCKET/FOLDER)."""

    dir: str = "data"
    compression: str = one_of("none", "lz4", "zstd", default="none")  # of pixels in files that are written
    cache_dir: str | None = "~/.cache/instructrl"  # local copies of what lies in buckets; null: read it in requests
    cache_gb: float = number(100.0, above=0, high=1e6)  # that these copies may take


@dataclass
class TrainingConfig:
    """Behaviour cloning: how long and how often one looks up. `*_every` count epochs, but for `save_every`."""

    epochs: int = number(low=1, high=MOST_EPOCHS)
    batch_size: int = number(low=1, high=MOST_SEQUENCES)  # sequences
    sentences: int | None = number(None, low=1, high=1000)  # of each episode's, the first so many are learnt; null: all
    token_dropout: float | None = number(None, low=0, high=0.9)  # share of hidden words; null: see `token_dropout`
    validate_every: int = number(1, low=1, high=MOST_EPOCHS)  # each validation also saves a checkpoint
    save_every: int | None = number(None, low=1, high=1_000_000_000)  # also after every so many steps; null: not at all
    keep_last: int = number(1, low=1, high=MOST_EPOCHS)  # checkpoints
    keep_best: int = number(1, low=1, high=MOST_EPOCHS)  # those with the smallest validation losses
    rollout_every: int = number(0, low=0, high=MOST_EPOCHS)  # 0: never
    rollout_episodes: int = number(20, low=1, high=MOST_EPISODES)  # of each task
    log_every: int = number(0, low=0, high=MOST_EPISODES)  # steps; 0: metrics are written of whole epochs alone
    freeze: list[str] | None = None  # patterns of the parameters that stay as they are (training/paths.py)
    fresh: list[str] | None = None  # patterns of those that begin anew, here or left behind there, with init_from


@dataclass
class PretrainingConfig:
    """What an encoder learns from images and sentences with `objective=masked`: to tell what is hidden of them."""

    train: list[str] | None = None  # where pairs, images and sentences are (data/pairs.py)
    val: list[str] | None = None  # the same, for validation
    pair_rate: float = number(1.0, low=0, high=1e6)  # how often a batch is of pairs,
    image_rate: float = number(0.0, low=0, high=1e6)  # of images alone,
    text_rate: float = number(0.0, low=0, high=1e6)  # of sentences alone, all relative to each other
    image_mask: float = number(0.75, low=0.01, high=0.99)  # share of an image's patches that is hidden
    text_mask: float = number(0.75, low=0.01, high=0.99)  # share of a sentence's places that is hidden
    image_weight: float = number(1.0, low=0, high=1e6)  # of the loss of hidden patches,
    text_weight: float = number(0.5, low=0, high=1e6)  # and of that of hidden words
    canvas: int | None = number(None, low=16, high=2048)  # pixels from which crops are taken; null: 8/7 of the image
    crop_low: float = number(0.2, above=0, high=1)  # the smallest share of a canvas that a crop shows,
    crop_high: float = number(1.0, above=0, high=1)  # and the largest; both 1: no crops
    flip: bool = False  # whether half of the images are mirrored; not where sentences say left and right
    decoder_dim: int = number(512, low=8, high=4096)  # the decoder, which only pretraining needs: width,
    decoder_depth: int = number(8, low=1, high=64)  # blocks,
    decoder_heads: int = number(16, low=1, high=64)  # and heads of attention
    pictures: int = number(4, low=0, high=16)  # pairs of the validation that are drawn each time with what is told


@dataclass
class WandbConfig:
    """Weights & Biases; metrics are always written as JSON lines too."""

    mode: str = one_of("off", "offline", "online", default="off")
    project: str = "instructrl"
    entity: str | None = None
    group: str | None = None  # of runs that are looked at together; null: the name of the sweep, where there is one


@dataclass
class TrainConfig:
    """`python train.py`."""

    name: str = MISSING
    seed: int = number(0, low=0, high=2**31 - 1)
    output_dir: str = "outputs"
    objective: str = one_of("cloning", "masked", default="cloning")  # masked: pretrain the encoder alone
    features: str = one_of("auto", "cached", "live", default="auto")  # auto: cached where the encoder is frozen
    features_dir: str | None = None  # where they are kept; null: beside the demonstrations
    init_from: str | None = None  # a run, or what Agent.save wrote, whose parameters this one begins with
    init_checkpoint: str = one_of("best", "last", default="best")  # of that run
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
    """`python -m data_tools.collect`."""

    task: TaskConfig = field(default_factory=TaskConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    episodes: int | None = number(None, low=1, high=MOST_EPISODES)  # null: task.episodes
    val_episodes: int | None = number(None, low=1, high=MOST_EPISODES)  # null: task.val_episodes


@dataclass
class ProtocolConfig:
    """What an evaluation asks of an agent; numbers of one protocol are not those of another."""

    name: str = MISSING  # of the folder too: eval for ours, eval-NAME for others
    episodes: int = number(low=1, high=MOST_EPISODES)  # in each row of each task
    seed: int = number(low=0, high=2**31 - 1)  # which scenes
    rows: list[str] = field(default=MISSING, metadata={"choices": EVALUATION_ROWS})
    variations: Any = words_or_numbers("all", "trained", "held_out", default=MISSING, low=0, high=MOST_VARIATIONS)
    order: str = one_of("in_turn", "shuffled")  # of the variations, each once before any comes twice
    sentence: str = one_of("seed", "first")  # which of a variation's sentences is told
    keyframes: int | None = number(low=1, high=1000)  # that an episode may take; null: the task's own number
    tries: int = number(low=1, high=1000)  # the so many-th action without a path ends the episode


@dataclass
class EvalConfig:
    """`python eval.py`; the model's, task's and simulator's settings come from the run."""

    run: str = MISSING
    tasks: list[str] | None = None  # null: all of the run's
    episodes: int | None = number(None, low=1, high=MOST_EPISODES)  # null: protocol.episodes
    seed: int | None = number(None, low=0, high=2**31 - 1)  # null: protocol.seed
    rows: list[str] | None = field(default=None, metadata={"choices": EVALUATION_ROWS})  # null: protocol.rows
    checkpoint: str = one_of("best", "last", default="best")
    videos: int | None = number(None, low=0, high=100)  # of a task's successes, and of failures; null: 3, of a set's 1
    renderer: str | None = field(
        default=None, metadata={"choices": (*RENDERERS, *RLBENCH_RENDERERS)}
    )  # null: that of the data
    workers: int | None = number(None, low=1, high=1024)  # null: one per core
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


def protocol_of(config: EvalConfig) -> ProtocolConfig:
    """The protocol with what is set beside it: `episodes`, `seed` and `rows` have the last word."""
    beside: dict[str, Any] = {"episodes": config.episodes, "seed": config.seed, "rows": config.rows}
    return replace(config.protocol, **{key: value for key, value in beside.items() if value is not None})


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


def check_groups(config: Any) -> None:
    """Raise InputError where settings that are right by themselves do not fit together."""
    if isinstance(config, TrainConfig):
        check_sizes(config)
        check_features(config)
        check_fresh(config)
        check_optimizer(config)
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
        for key, rows in (("protocol.rows", config.protocol.rows), ("rows", config.rows)):
            if rows is not None and "trained" not in rows:
                raise InputError(f"{key}: found {rows}; allowed: lists with trained, the row of the headline")
        check_name(config.protocol.name, key="protocol.name")
    if isinstance(config, TrainConfig | EvalConfig):
        check_profile(config.hardware)
    if isinstance(config, TrainConfig | CollectConfig):
        check_task(config.task, config.sim)
        check_view(config.sim)


def check_task(task: TaskConfig, sim: SimConfig) -> None:
    """Raise InputError where a simulator has no such task, or the settings of a set do not fit together."""
    names, variations = task_names(task), task.variations
    key, more = ("task.tasks", "") if task.tasks else ("task.name", ", or any name with a set in task.tasks")
    for name in names:
        if sim.kind == "tabletop" and name not in EMBEDDED_TASKS:
            allowed = f"{', '.join(EMBEDDED_TASKS)}{more}, or a task of RLBench with sim=rlbench"
            raise InputError(f"{key}: found {shown(name)}; allowed: {allowed}")
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise InputError(f"{key}: found {shown(name)}; allowed: the name of a task of RLBench, like close_jar")
    if variations is not None and min(variations) < 0:
        raise InputError(f"task.variations: found {shown(variations)}; allowed: null or a list of numbers >= 0")
    if variations is not None and len(names) > 1:
        found = f"{shown(variations)} for {len(names)} tasks"
        raise InputError(f"task.variations: found {found}; allowed: null, or choose one task")
    check_weights(task)


def check_weights(task: TaskConfig) -> None:
    """Raise InputError where the weights are not one for each task of a set, or leave a task without episodes."""
    if task.weights is None:
        return
    found = f"task.weights: found {shown(task.weights)}"
    if task.tasks is None:
        raise InputError(f"{found}; allowed: null without a set in task.tasks")
    if len(task.weights) != len(task.tasks):
        raise InputError(f"{found}; allowed: null, or a number for each of task.tasks={shown(task.tasks)}")
    epoch, total = len(task.tasks) * task.episodes, sum(map(Fraction, task.weights))
    for name, weight in zip(task.tasks, task.weights, strict=True):
        if Fraction(weight) * epoch < total:
            least = f"at least {float(total / epoch):.6g} for {name}, one of an epoch's {epoch} sequences"
            raise InputError(f"{found}; allowed: {least}, or more task.episodes")


def check_view(sim: SimConfig) -> None:
    """Raise InputError where a simulator has no such camera or renderer."""
    embedded = sim.kind == "tabletop"
    if embedded and "overhead" in sim.cameras:
        raise InputError(f"sim.cameras: found {shown(sim.cameras)}; allowed: overhead only with sim=rlbench")
    renderers = RENDERERS if embedded else ("auto", *RLBENCH_RENDERERS)
    if sim.renderer not in renderers:
        raise InputError(f"sim.renderer: found {sim.renderer}; allowed with sim={sim.kind}: {', '.join(renderers)}")


def check_sizes(config: TrainConfig) -> None:
    """Raise InputError where the sizes of image, patch, policy and attention do not divide each other."""
    check_encoder(config.encoder, config.sim.image_size)
    policy = config.policy
    if policy.dim % 2:
        raise InputError(f"policy.dim: found {policy.dim}; allowed: an even number")
    if policy.dim % policy.heads:
        raise InputError(f"policy.heads: found {policy.heads}; allowed: a divisor of policy.dim={policy.dim}")


def check_encoder(encoder: EncoderConfig, rendered: int) -> None:
    """Raise InputError where an encoder's sizes do not fit together or to images of `rendered` pixels."""
    patch, size = encoder.patch_size, encoder.image_size or rendered
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
    chosen_layers(encoder)
    if encoder.kind == "clip":
        check_clip(encoder)


def check_clip(encoder: EncoderConfig) -> None:
    """Raise InputError where the settings of clip's text tower are missing or do not divide each other."""
    for key in ("text_dim", "text_depth", "text_heads", "projection", "image_size"):
        if getattr(encoder, key) is None:
            raise InputError(f"encoder.{key}: found null; allowed: a number, which kind=clip needs")
    dim, heads = encoder.text_dim or 0, encoder.text_heads or 1
    if dim % heads:
        raise InputError(f"encoder.text_heads: found {heads}; allowed: a divisor of encoder.text_dim={dim}")


def chosen_layers(encoder: EncoderConfig) -> tuple[int, ...]:
    """The layers whose pooled outputs are features, counted from 0; the last is the encoder's normalised output.

    Raises:
        InputError: the encoder has no such layer.
    """
    count = max(encoder.depth, 1)
    if encoder.layers == "last":
        return (count - 1,)
    if encoder.layers == "all":
        return tuple(range(count))
    if max(encoder.layers) >= count:
        allowed = f"all, last, or a list of integers from 0 to {count - 1}"
        raise InputError(f"encoder.layers: found {shown(encoder.layers)}; allowed: {allowed}")
    return tuple(encoder.layers)


def cached_features(config: TrainConfig) -> bool:
    """Whether training reads features that were computed once, instead of images."""
    return config.features == "cached" or (config.features == "auto" and config.encoder.frozen)


def token_dropout(config: TrainConfig) -> float:
    """Share of the instruction's tokens hidden in training: 0.1 for a trained encoder, none for a frozen one."""
    chosen = config.training.token_dropout
    return chosen if chosen is not None else 0.0 if config.encoder.frozen else 0.1


def check_processes(hardware: HardwareConfig) -> None:
    """Raise InputError where it is not told which processes train together."""
    address, counts = hardware.coordinator, ("processes", "process")
    given = [key for key in counts if getattr(hardware, key) is not None]
    if address in (None, "auto"):
        for key in given:
            without = "without hardware.coordinator=host:port"
            raise InputError(f"hardware.{key}: found {getattr(hardware, key)}; allowed: null {without}")
        return
    if not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address or ""):
        raise InputError(f"hardware.coordinator: found {shown(address)}; allowed: host:port, auto, or null")
    for key in counts:
        if key not in given:
            raise InputError(f"hardware.{key}: found null; allowed: a number with hardware.coordinator={address}")
    if (hardware.process or 0) >= (hardware.processes or 0):
        found = f"hardware.process: found {hardware.process}"
        raise InputError(f"{found}; allowed: at least 0 and less than hardware.processes={hardware.processes}")


def check_attention(hardware: HardwareConfig) -> None:
    """Raise InputError where fused attention is asked for in a precision that it does not have."""
    if hardware.attention == "cudnn" and hardware.precision != "bfloat16":
        raise InputError("hardware.attention: found cudnn; allowed: auto or xla, or hardware.precision=bfloat16 too")


def check_optimizer(config: TrainConfig) -> None:
    """Raise InputError where the optimizer's settings do not fit together, or turn what is not there."""
    optimizer, epochs = config.optimizer, config.training.epochs
    warmup, steps = optimizer.warmup_epochs, optimizer.warmup_steps
    if warmup is None and steps is None:
        raise InputError("optimizer.warmup_epochs: found null; allowed: a number, or one for optimizer.warmup_steps")
    if warmup is not None and steps is not None:
        other = f"null with optimizer.warmup_epochs={warmup:g}, which may be null instead"
        raise InputError(f"optimizer.warmup_steps: found {steps}; allowed: {other}")
    if warmup is not None and warmup >= epochs:
        raise InputError(f"optimizer.warmup_epochs: found {warmup}; allowed: less than training.epochs={epochs}")
    if optimizer.schedule == "constant" and optimizer.end_share:
        raise InputError(
            f"optimizer.end_share: found {optimizer.end_share:g}; allowed: 0 with optimizer.schedule=constant"
        )
    for key in ("layer_decay", "encoder_rate"):
        if config.encoder.frozen and getattr(optimizer, key) != 1:
            raise InputError(f"optimizer.{key}: found {getattr(optimizer, key):g}; allowed: 1 with encoder.frozen=true")


def check_features(config: TrainConfig) -> None:
    """Raise InputError where features are to be computed once although they do not stay the same."""
    if not cached_features(config):
        return
    if not config.encoder.frozen:
        raise InputError("features: found cached; allowed: auto or live for an encoder that is not frozen")
    if token_dropout(config) > 0:
        raise InputError(
            f"training.token_dropout: found {config.training.token_dropout}; "
            "allowed: null or 0 with cached features, or add features=live"
        )


def check_objective(config: TrainConfig) -> None:
    """Raise InputError where settings are of no use for the objective, or those of pretraining do not fit together."""
    options = config.pretraining
    if config.objective == "cloning":
        for key in ("train", "val"):
            if getattr(options, key) is not None:
                found = shown(getattr(options, key))
                raise InputError(f"pretraining.{key}: found {found}; allowed: null, or add objective=masked")
        return
    encoder, training = config.encoder, config.training
    if encoder.kind != "m3ae":
        raise InputError(
            f"encoder.kind: found {encoder.kind}; allowed with objective=masked: m3ae, as in encoder=m3ae_s16"
        )
    unwanted: tuple[tuple[str, Any, Any], ...] = (
        ("encoder.text", encoder.text, True),
        ("encoder.frozen", encoder.frozen, False),
        ("init_from", config.init_from, None),
        ("training.freeze", training.freeze, None),
        ("training.token_dropout", training.token_dropout, None),
        ("training.sentences", training.sentences, None),
        ("training.rollout_every", training.rollout_every, 0),
    )
    for key, found, wanted in unwanted:
        if found != wanted:
            raise InputError(f"{key}: found {shown(found)}; allowed: {shown(wanted)} with objective=masked")
    for key in ("train", "val"):
        if getattr(options, key) is None:
            raise InputError(f"pretraining.{key}: found null; allowed: a list of files or data sets (see README.md)")
    check_decoder(options)


def check_decoder(options: PretrainingConfig) -> None:
    """Raise InputError where pretraining has no loss, no batches, no crops, or a decoder whose sizes do not fit."""
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


def pretraining_size(config: TrainConfig) -> int:
    """Pixels along the images that a pretrained encoder sees."""
    return config.encoder.image_size or config.sim.image_size


def canvas_size(config: TrainConfig) -> int:
    """Pixels along the images that are read for it, of which crops are taken."""
    return config.pretraining.canvas or round(pretraining_size(config) * 8 / 7)


def kind_rates(options: PretrainingConfig) -> dict[str, float]:
    """How often a batch is of each kind, relative to the others."""
    return {"pair": options.pair_rate, "image": options.image_rate, "text": options.text_rate}


def check_profile(hardware: HardwareConfig) -> None:
    """Raise InputError unless the steps of a trace are a first and a last one."""
    window = hardware.profile
    if window is not None and not (len(window) == 2 and 0 <= window[0] < window[1]):
        allowed = "null, or the first and the last step, like [10,20]"
        raise InputError(f"hardware.profile: found {shown(window)}; allowed: {allowed}")


def check_fresh(config: TrainConfig) -> None:
    """Raise InputError where parts are to begin anew although there is nothing to begin from."""
    if config.training.fresh is not None and config.init_from is None:
        found = shown(config.training.fresh)
        raise InputError(f"training.fresh: found {found}; allowed: null without init_from, where all begins anew")


def check_name(name: str, *, key: str = "name") -> None:
    """Raise InputError for a name that cannot be a folder's."""
    if set(name) & set("/\\") or name.startswith(".") or len(name.encode()) > LONGEST_NAME:
        allowed = f"a folder's name without slashes or a dot in front, at most {LONGEST_NAME} bytes"
        raise InputError(f"{key}: found {shown(name)}; allowed: {allowed}")


def check_jobs(configs: Sequence[Any]) -> None:
    """Raise InputError if two runs of one command would write into the same directory."""
    names = [(config.output_dir, config.name) for config in configs if isinstance(config, TrainConfig)]
    for place, name in enumerate(names):
        if name in names[:place]:
            found = f"{shown(name[1])} for jobs {names.index(name) + 1} and {place + 1}"
            raise InputError(f"name: found {found}; put what varies into it, such as 'name=${{task.name}}-${{seed}}'")
    folders = [(config.run, config.protocol.name) for config in configs if isinstance(config, EvalConfig)]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            found = f"{shown(folder[1])} for jobs {folders.index(folder) + 1} and {place + 1}, which judge {folder[0]}"
            raise InputError(
                f"protocol.name: found {found}; let it vary too, such as protocol.name=a,b in jobs of its own"
            )


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
