"""The optimizer: clipped AdamW under a linear warm-up and a cosine decay to zero."""

from typing import Any

import jax
import optax

from instructrl.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, *, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate at each step: up to its peak over the warm-up, then down to zero at the last step."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_epochs else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        decay_steps=epochs * steps_per_epoch,
    )


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW that decays matrices but no biases, scales or norms."""

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=matrices),
    )
