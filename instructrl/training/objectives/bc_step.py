"""Train and validation steps of behaviour cloning: pure functions, compiled once."""

from collections.abc import Callable
from typing import cast

import jax
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from instructrl.models.agent import Agent
from instructrl.training.distributed.mesh import REPLICATED
from instructrl.training.gradient_accumulation import mean_gradient, num_valid_steps
from instructrl.training.objectives.augmentation import drop_tokens, shift_images
from instructrl.training.objectives.base import BatchT, EvalStep, TrainStep
from instructrl.training.optimizer import update_average
from instructrl.training.state import TrainState, merge_params
from instructrl.training.types import Params, StepMetrics
from instructrl.types import Batch


def agent_loss(agent: Agent, params: Params, batch: Batch) -> tuple[Float[Array, ""], StepMetrics]:
    """The agent's mean loss on a batch, and its metrics (see `Agent.loss`)."""
    return cast(tuple[Float[Array, ""], StepMetrics], agent.apply({"params": params}, batch))


def make_train_step(
    agent: Agent,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    token_dropout: float,
    special_token_ids: tuple[int, ...] = (),
    image_shift: int = 0,
    accumulation: int = 1,
    shardings: PyTree[NamedSharding] | None = None,
    ema: float | None = None,
) -> TrainStep[Batch]:
    """The jitted train step: (state, batch, frozen parameters) -> state, metrics. The old state is donated.

    Args:
        agent: the model.
        optimizer: its optimizer.
        seed: determines the randomness, together with the state's step.
        token_dropout: the share of instruction tokens that are masked.
        special_token_ids: tokens that are never masked.
        image_shift: pixels by which images are shifted at most.
        accumulation: number of microbatches per batch; the result is the same.
        shardings: of the state, before and after; None on one device.
        ema: decay of the parameters' moving average in the state.
    """

    def train_step(state: TrainState, batch: Batch, frozen: Params) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = drop_tokens(batch, key, share=token_dropout, special_token_ids=special_token_ids)
        if image_shift:
            batch = shift_images(batch, jax.random.fold_in(key, 1), pixels=image_shift)

        def loss(params: Params, batch: Batch) -> tuple[Float[Array, ""], StepMetrics]:
            return agent_loss(agent, merge_params(params, frozen), batch)

        gradients, metrics = mean_gradient(
            loss,
            state.params,
            batch,
            microbatches=accumulation,
            shardings=None if shardings is None else shardings.params,
            count=num_valid_steps,
        )
        metrics["steps"] = num_valid_steps(batch)
        return apply_gradients(state, gradients, metrics, optimizer=optimizer, ema=ema)

    return jit_train_step(train_step, shardings)


def apply_gradients(
    state: TrainState,
    gradients: Params,
    metrics: StepMetrics,
    *,
    optimizer: optax.GradientTransformation,
    ema: float | None,
) -> tuple[TrainState, StepMetrics]:
    """Apply an optimizer step; returns the new state, and the metrics with the norms of the step."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"gradient": gradients, "parameter": params, "update": updates}
    metrics |= {f"{name}_norm": optax.tree.norm(tree) for name, tree in norms.items()}
    average = None
    if ema is not None and state.average is not None:
        average = update_average(state.average, params, step=state.step, decay=ema)
    return TrainState(state.step + 1, params, opt_state, average), metrics


def jit_train_step(
    train_step: Callable[[TrainState, BatchT, Params], tuple[TrainState, StepMetrics]],
    shardings: PyTree[NamedSharding] | None,
) -> TrainStep[BatchT]:
    """Jit a train step with a donated state."""
    if shardings is None:
        return jax.jit(train_step, donate_argnums=0)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(shardings)))


def replicated(shardings: PyTree[NamedSharding]) -> NamedSharding:
    """The replicated sharding on a state's mesh."""
    return NamedSharding(shardings.step.mesh, REPLICATED)


def make_eval_step(agent: Agent, *, shardings: PyTree[NamedSharding] | None = None) -> EvalStep[Batch]:
    """The jitted validation step: mean metrics of a batch, and the number of keyframe steps as `steps`."""

    def eval_step(params: Params, batch: Batch) -> StepMetrics:
        return agent_loss(agent, params, batch)[1] | {"steps": num_valid_steps(batch)}

    return jax.jit(eval_step, out_shardings=None if shardings is None else replicated(shardings))
