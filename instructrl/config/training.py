"""Settings of train.py: optimizer, hardware, training and pretraining, and checks across them. No jax here."""

import re
from dataclasses import dataclass, field
from typing import Any

from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.fields import (
    MAX_BATCH_SIZE,
    MAX_EPISODES,
    MAX_EPOCHS,
    MAX_STEPS,
    format_value,
    number,
    one_of,
    setting,
    word,
)
from instructrl.config.heads import ChunkConfig
from instructrl.config.model import HEADS, EncoderConfig, HeadConfig, PolicyConfig
from instructrl.errors import InputError
from instructrl.types import DENSE, KEYFRAME


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
    feature_cache: str = one_of(
        "auto",
        "devices",
        "files",
        default="auto",
        help="source of cached features; auto: devices if a quarter of their free memory suffices, else files",
    )
    encode_batch: int | None = number(
        None,
        low=1,
        high=MAX_BATCH_SIZE,
        help="images that each device encodes at a time for cached features; null: 32 on a CPU, 256 on GPUs and TPUs",
    )
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
class TrainingConfig:
    """Length of the training, and intervals in epochs (save_every and log_every: in steps)."""

    epochs: int = number(low=1, high=MAX_EPOCHS, help="number of epochs")
    batch_size: int = number(low=1, high=MAX_BATCH_SIZE, help="sequences per batch, over all devices and processes")
    max_instructions: int | None = number(
        None, low=1, high=1000, help="instructions to train on of each episode's, the first ones; null: all"
    )
    token_dropout: float | None = number(
        None,
        low=0,
        high=0.9,
        help="fraction of instruction tokens dropped; null: 0.1 with a trained encoder, 0 with a frozen one",
    )
    image_shift: int = number(
        0, low=0, high=256, help="pixels by which images are shifted at random, with their camera matrices; 0: none"
    )
    intermediate_share: float = number(
        0.0, low=0, high=1, help="share of steps observed on the way to their keyframe, in data that has frames there"
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
    objective: str = one_of(
        "val/loss",
        "rollout/success_rate",
        default="val/loss",
        help="value of a training for sweepers: the lowest validation loss, or the highest success rate of rollouts",
    )
    freeze: list[str] | None = setting(
        None, help="path patterns of parameters to freeze, like [encoder,policy/block_0]; null: none"
    )
    reinit: list[str] | None = setting(
        None, help="path patterns of parameters to re-initialize instead of taking them from init_from; null: none"
    )


@dataclass
class PretrainingConfig:
    """Masked pretraining of an encoder on images and text, with objective=masked_pretraining."""

    train: list[str] | None = setting(None, help="training data: files or sets of images and text (docs/encoders.md)")
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


# What Trackio makes a file name and an address of; and OWNER/NAME on Hugging Face.
TRACKIO_PROJECT, TRACKIO_PROJECT_ALLOWED = r"[A-Za-z0-9][\w-]*", "letters, digits, _ and -, a letter or digit first"
HUB_ID, HUB_ID_ALLOWED = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", "OWNER/NAME, of letters, digits and ._-"


@dataclass
class TensorBoardConfig:
    """Event files for TensorBoard."""

    enabled: bool = setting(False, help="write event files for TensorBoard into the run's tensorboard folder")


@dataclass
class TrackioConfig:
    """Logging to Trackio, in its local database or on Hugging Face."""

    enabled: bool = setting(False, help="logging to Trackio")
    project: str = word(TRACKIO_PROJECT, TRACKIO_PROJECT_ALLOWED, default="instructrl", help="Trackio project")
    space: str | None = word(
        HUB_ID, HUB_ID_ALLOWED, help="Space on Hugging Face to log to; null: Trackio's local database"
    )
    group: str | None = setting(None, help="Trackio group of runs; null: the name of the sweep, if any")


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
    tensorboard: TensorBoardConfig = field(default_factory=TensorBoardConfig)
    trackio: TrackioConfig = field(default_factory=TrackioConfig)


def check_dimensions(encoder: EncoderConfig, policy: PolicyConfig, *, image_size: int) -> None:
    """Raise InputError if the sizes of images, patches, layers and attention heads do not divide each other."""
    encoder.check(image_size)
    if policy.dim % 2:
        raise InputError(f"policy.dim: found {policy.dim}; allowed: an even number")
    if policy.dim % policy.heads:
        raise InputError(f"policy.heads: found {policy.heads}; allowed: a divisor of policy.dim={policy.dim}")


def check_actions(head: HeadConfig, sim: SimConfig) -> None:
    """Raise InputError if the head predicts other actions than the demonstrations have, or fewer than are executed."""
    needed = DENSE if sim.actions == DENSE else KEYFRAME  # the agent predicts the collision flag beside its head
    if head.actions != needed:
        others = ", ".join(name for name in HEADS.own if HEADS.load_own(name).actions == needed)
        raise InputError(
            f"head.kind: found {head.kind}, which predicts {head.actions} actions, with sim.actions={sim.actions}; "
            f"allowed: sim.actions={head.actions}, or head.kind {others}"
        )
    if isinstance(head, ChunkConfig) and head.execute > head.chunk:
        raise InputError(f"head.execute: found {head.execute}; allowed: at most head.chunk={head.chunk}")


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


def check_image_shift(config: TrainConfig) -> None:
    """Raise InputError if images are to be shifted that are not read, or whose camera matrices are not."""
    found, allowed = config.training.image_shift, ""
    if found and uses_cached_features(config):
        allowed = "0 with cached features, or add features=live"
    elif found and not config.head.reads_cameras:
        allowed = f"0 with head.kind={config.head.kind}, to which a shifted image shows another position"
    elif found >= config.sim.image_size:
        allowed = f"less than sim.image_size={config.sim.image_size}"
    if allowed:
        raise InputError(f"training.image_shift: found {found}; allowed: {allowed}")


def check_returned(training: TrainingConfig) -> None:
    """Raise InputError if a training is to return the success rate of rollouts that it never makes."""
    if training.objective == "rollout/success_rate" and not 0 < training.rollout_every <= training.epochs:
        raise InputError(
            f"training.objective: found rollout/success_rate with training.rollout_every={training.rollout_every}; "
            f"allowed: val/loss, or training.rollout_every from 1 to training.epochs={training.epochs}"
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
        check_actions(config.head, config.sim)
        check_image_shift(config)
        share = config.training.intermediate_share
        if share and config.sim.actions == DENSE:
            raise InputError(f"training.intermediate_share: found {share:g}; allowed: 0 with sim.actions=dense")
        return
    encoder, training = config.encoder, config.training
    if not encoder.masks_patches:
        raise InputError(
            f"encoder.kind: found {encoder.kind}; allowed with objective=masked_pretraining: m3ae, "
            "as in encoder=m3ae_s16"
        )
    unwanted: tuple[tuple[str, Any, Any], ...] = (
        ("encoder.text", encoder.text, True),
        ("encoder.joint", getattr(encoder, "joint", True), True),
        ("encoder.frozen", encoder.frozen, False),
        ("init_from", config.init_from, None),
        ("training.freeze", training.freeze, None),
        ("training.token_dropout", training.token_dropout, None),
        ("training.max_instructions", training.max_instructions, None),
        ("training.image_shift", training.image_shift, 0),
        ("training.intermediate_share", training.intermediate_share, 0),
        ("training.rollout_every", training.rollout_every, 0),
    )
    for key, found, wanted in unwanted:
        if found != wanted:
            raise InputError(
                f"{key}: found {format_value(found)}; allowed: {format_value(wanted)} with objective=masked_pretraining"
            )
    check_pretraining_size(config)
    for key in ("train", "val"):
        if getattr(options, key) is None:
            raise InputError(f"pretraining.{key}: found null; allowed: a list of files or data sets (docs/encoders.md)")
    check_decoder(options)


def check_pretraining_size(config: TrainConfig) -> None:
    """Raise InputError if two settings give different sizes of the images of a pretraining, which are not rendered."""
    size, read = config.sim.image_size, config.encoder.image_size
    if read not in (None, size):
        raise InputError(
            f"sim.image_size: found {size}; allowed with objective=masked_pretraining: {read}, as encoder.image_size; "
            f"set encoder.image_size={size} for images of {size} pixels"
        )


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
