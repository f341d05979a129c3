"""The optimizer: clipped AdamW, its learning rate over the steps, and what decays and learns how fast."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from instructrl.config import OptimizerConfig
from instructrl.errors import InputError
from instructrl.models.encoder import by_name, layer_ages
from instructrl.training.paths import chosen, path_of

ENCODER = "encoder/"  # where an agent's parameters have those of its encoder


def learning_rate(config: OptimizerConfig, *, epochs: int, steps_per_epoch: int, batch_size: int) -> optax.Schedule:
    """Learning rate at each step: up to its peak over the warm-up, then on its course to the last step.

    Raises:
        InputError: the warm-up is as long as the training.
    """
    total, warmup = epochs * steps_per_epoch, warmup_steps(config, steps_per_epoch)
    if warmup >= total:
        key = "warmup_steps" if config.warmup_epochs is None else "warmup_epochs"
        raise InputError(
            f"optimizer.{key}: found {getattr(config, key)}; allowed: fewer steps than training has, {total} "
            f"({epochs} epochs of {steps_per_epoch})"
        )
    peak = config.learning_rate * (1.0 if config.base_batch is None else batch_size / config.base_batch)
    first = 0.0 if config.warmup_epochs or config.warmup_steps else peak
    end = config.end_share * peak
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(first, peak, warmup, total, end_value=end)
    after = optax.linear_schedule(peak, end if config.schedule == "linear" else peak, total - warmup)
    return optax.join_schedules([optax.linear_schedule(first, peak, warmup), after], [warmup])


def warmup_steps(config: OptimizerConfig, steps_per_epoch: int) -> int:
    """How many steps the learning rate rises."""
    if config.warmup_epochs is None:
        return config.warmup_steps or 0
    return round(config.warmup_epochs * steps_per_epoch)


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW, then the encoder's own rates.

    Its `init` raises InputError where a pattern of `optimizer.decay` means no parameter.
    """

    def decayed(params: Any) -> Any:
        if config.decay is None:
            return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
        return chosen(params, config.decay, key="optimizer.decay")

    adamw = optax.adamw(schedule, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=decayed)
    clip = clipping(math.inf if config.clip_norm is None else config.clip_norm)
    if config.layer_decay == config.encoder_rate == 1:
        return optax.chain(clip, adamw)

    def scaled(updates: Any, _: Any = None) -> Any:
        return jax.tree.map(lambda update, rate: update * rate, updates, rates(config, updates))

    return optax.chain(clip, adamw, optax.stateless(scaled))


def clipping(longest: float) -> optax.GradientTransformation:
    """All gradients together scaled down to a norm of at most `longest`, by one factor.

    As `optax.clip_by_global_norm`, which divides and multiplies instead: XLA keeps the quotient, and the update of a
    large policy takes twice the time. An infinite `longest` is quicker than no clipping for a similar reason: squares
    that the logged norm and Adam have in common are kept too.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < longest, 1.0, longest / norm)
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def rates(config: OptimizerConfig, params: Any) -> Any:
    """For every parameter its share of the learning rate, in a tree like `params`: below 1 deep in the encoder."""
    ages = layer_ages(by_name(params.get("encoder", {})))

    def rate(keys: Any, _: Any) -> float:
        path = path_of(keys)
        if not path.startswith(ENCODER):
            return 1.0
        return config.encoder_rate * config.layer_decay ** ages[path.removeprefix(ENCODER)]

    return jax.tree_util.tree_map_with_path(rate, params)


def averaged(average: Any, params: Any, *, step: Any, decay: float) -> Any:
    """The moving average of the parameters, after one step more than `step`.

    At first it moves faster, by 9 parts in 10 + step, so that little is left of the random beginning.
    """
    kept = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, params)
