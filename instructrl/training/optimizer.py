"""The optimizer: AdamW with gradient clipping, learning rate schedule, weight decay mask and per-layer rates."""

import math

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Int, PyTree

from instructrl.config.training import OptimizerConfig
from instructrl.errors import InputError
from instructrl.models.encoders.registry import layer_depths_from_top
from instructrl.models.parameter_files import flatten_params
from instructrl.training.param_paths import path_of, pattern_mask
from instructrl.training.types import Params

ENCODER_PREFIX = "encoder/"  # path prefix of the encoder's parameters in an agent


def learning_rate(config: OptimizerConfig, *, epochs: int, steps_per_epoch: int, batch_size: int) -> optax.Schedule:
    """Learning rate schedule: linear warm-up to the peak, then the configured decay until the last step.

    Raises:
        InputError: the warm-up is not shorter than the training.
    """
    total, warmup = epochs * steps_per_epoch, warmup_steps(config, steps_per_epoch)
    if warmup >= total:
        key = "warmup_steps" if config.warmup_epochs is None else "warmup_epochs"
        raise InputError(
            f"optimizer.{key}: found {getattr(config, key)}; allowed: fewer steps than the training has, {total} "
            f"({epochs} epochs of {steps_per_epoch})"
        )
    peak = config.learning_rate * (1.0 if config.base_batch_size is None else batch_size / config.base_batch_size)
    first = 0.0 if config.warmup_epochs or config.warmup_steps else peak
    end = config.end_factor * peak
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(first, peak, warmup, total, end_value=end)
    after = optax.linear_schedule(peak, end if config.schedule == "linear" else peak, total - warmup)
    return optax.join_schedules([optax.linear_schedule(first, peak, warmup), after], [warmup])


def warmup_steps(config: OptimizerConfig, steps_per_epoch: int) -> int:
    """Number of warm-up steps."""
    if config.warmup_epochs is None:
        return config.warmup_steps or 0
    return round(config.warmup_epochs * steps_per_epoch)


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW, then the encoder's learning rate scales.

    Its `init` raises InputError if a pattern of `optimizer.decay` matches no parameter.
    """

    def decay_mask(params: Params) -> Params:
        if config.decay is None:
            return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
        return pattern_mask(params, config.decay, key="optimizer.decay")

    adamw = optax.adamw(schedule, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=decay_mask)
    clip = clip_by_global_norm(math.inf if config.clip_norm is None else config.clip_norm)
    if config.layer_lr_decay == config.encoder_lr_scale == 1:
        return optax.chain(clip, adamw)

    def scale(updates: Params, _: Params | None = None) -> Params:
        return jax.tree.map(lambda update, factor: update * factor, updates, learning_rate_scales(config, updates))

    return optax.chain(clip, adamw, optax.stateless(scale))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale all gradients by one factor such that their global norm is at most `max_norm`.

    Same result as `optax.clip_by_global_norm`, which divides and multiplies: XLA materializes the quotient, and the
    update of a large policy takes twice as long. An infinite `max_norm` is faster than no clipping for a similar
    reason: without it, squares shared by the logged norm and Adam are materialized.
    """

    def update(updates: Params, state: PyTree, params: Params | None = None) -> tuple[Params, PyTree]:
        del params
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def learning_rate_scales(config: OptimizerConfig, params: Params) -> Params:
    """Learning rate scale of every parameter, in a tree like `params`; 1 outside the encoder."""
    depths = layer_depths_from_top(flatten_params(params.get("encoder", {})))

    def scale(keys: KeyPath, _: object) -> float:
        path = path_of(keys)
        if not path.startswith(ENCODER_PREFIX):
            return 1.0
        return config.encoder_lr_scale * config.layer_lr_decay ** depths[path.removeprefix(ENCODER_PREFIX)]

    return jax.tree_util.tree_map_with_path(scale, params)


def update_average(average: Params, params: Params, *, step: Int[Array, ""] | int, decay: float) -> Params:
    """Exponential moving average of the parameters after step number `step`.

    The effective decay is min(decay, (1 + step) / (10 + step)), so that the random initialization is soon forgotten.
    """
    effective = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(lambda old, new: effective * old + (1 - effective) * new, average, params)
