"""One step of behaviour cloning, and one of validation. Pure functions, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from instructrl.batch import Batch
from instructrl.models.agent import Agent
from instructrl.training.state import TrainState

Metrics = dict[str, Array]


def hide_words(batch: Batch, key: Array, *, share: float, markers: tuple[int, ...] = ()) -> Batch:
    """Hide a random share of the instruction's words, so that no single odd one decides; `markers` are no words."""
    hidden = jax.random.bernoulli(key, share, batch.text_padding_mask.shape)
    if markers:
        hidden &= ~jnp.isin(batch.tokens, jnp.array(markers))
    return batch._replace(text_padding_mask=jnp.maximum(batch.text_padding_mask, hidden))


def make_train_step(
    agent: Agent,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    token_dropout: float,
    markers: tuple[int, ...] = (),
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
    """The compiled step: (state, batch, frozen parameters) -> state, metrics. The old state is given up.

    Its randomness follows from the seed and the state's step. The share `token_dropout` of the instruction's tokens is
    hidden, without the tokenizer's `markers`.
    """

    def train_step(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = hide_words(batch, key, share=token_dropout, markers=markers)

        def loss(params: Any) -> Any:
            return agent.apply({"params": {**params, **frozen}}, batch)

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "steps": batch.step_mask.sum()}
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(agent: Agent) -> Callable[[Any, Batch], Metrics]:
    """The compiled validation step: metrics of a batch and how many keyframe steps they are the mean of."""

    def eval_step(params: Any, batch: Batch) -> Metrics:
        metrics: Any = agent.apply({"params": params}, batch)[1]
        return metrics | {"steps": batch.step_mask.sum()}

    return jax.jit(eval_step)
