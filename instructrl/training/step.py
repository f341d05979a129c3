"""One step of behaviour cloning, and one of validation. Pure functions, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array

from instructrl.batch import Batch
from instructrl.models.agent import Agent
from instructrl.training.accumulation import mean_gradient
from instructrl.training.mesh import EVERYWHERE
from instructrl.training.optimizer import averaged
from instructrl.training.state import TrainState, merged

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
    accumulation: int = 1,
    shardings: TrainState | None = None,
    ema: float | None = None,
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
    """The compiled step: (state, batch, frozen parameters) -> state, metrics. The old state is given up.

    Its randomness follows from the seed and the state's step. The share `token_dropout` of the instruction's tokens is
    hidden, without the tokenizer's `markers`. With `ema` the state's average follows the parameters. The batch is
    computed in `accumulation` parts, with the same result. `shardings`: where the state lies, before and after.
    """

    def train_step(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = hide_words(batch, key, share=token_dropout, markers=markers)

        def loss(params: Any, batch: Batch) -> Any:
            return agent.apply({"params": merged(params, frozen)}, batch)

        where = None if shardings is None else shardings.params
        gradients, metrics = mean_gradient(loss, state.params, batch, parts=accumulation, shardings=where)
        return updated(state, gradients, metrics | {"steps": batch.step_mask.sum()}, optimizer=optimizer, ema=ema)

    return compiled(train_step, shardings)


def updated(
    state: TrainState, gradients: Any, metrics: Metrics, *, optimizer: optax.GradientTransformation, ema: float | None
) -> tuple[TrainState, Metrics]:
    """The state after the optimizer's step with these gradients, and the metrics with its norms."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"gradient": gradients, "parameter": params, "update": updates}
    metrics |= {f"{name}_norm": optax.tree.norm(tree) for name, tree in norms.items()}
    average = None if ema is None else averaged(state.average, params, step=state.step, decay=ema)
    return TrainState(state.step + 1, params, opt_state, average), metrics


def compiled(train_step: Callable[..., Any], shardings: TrainState | None) -> Any:
    """A training step, jitted; the state that it is given is given up."""
    if shardings is None:
        return jax.jit(train_step, donate_argnums=0)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, everywhere(shardings)))


def everywhere(shardings: TrainState) -> NamedSharding:
    """On every device of the mesh on which a state lies."""
    return NamedSharding(shardings.step.mesh, EVERYWHERE)


def make_eval_step(agent: Agent, *, shardings: TrainState | None = None) -> Callable[[Any, Batch], Metrics]:
    """The compiled validation step: metrics of a batch and how many keyframe steps they are the mean of."""

    def eval_step(params: Any, batch: Batch) -> Metrics:
        metrics: Any = agent.apply({"params": params}, batch)[1]
        return metrics | {"steps": batch.step_mask.sum()}

    return jax.jit(eval_step, out_shardings=None if shardings is None else everywhere(shardings))
