"""What training carries from one step to the next, and how it begins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from instructrl.batch import Batch
from instructrl.config import TrainConfig
from instructrl.models.agent import Agent
from instructrl.training.hardware import compute_dtype


class TrainState(NamedTuple):
    """Everything that must survive an interruption; data order and randomness follow from `step`."""

    step: Any  # int32 scalar: optimizer steps taken
    params: Any
    opt_state: Any


def make_agent(config: TrainConfig, *, vocabulary_size: int) -> Agent:
    """The agent that a run's configuration describes."""
    return Agent(config.encoder, config.policy, config.head, vocabulary_size, compute_dtype(config.hardware))


def initial_params(agent: Agent, batch: Batch, *, seed: int) -> Any:
    """Random parameters, a function of the seed; `batch` gives the shapes only."""
    return jax.jit(agent.init)(jax.random.key(seed), batch)["params"]


def abstract_params(agent: Agent, batch: Batch) -> Any:
    """Shapes and types of the agent's parameters; nothing is computed."""
    return jax.eval_shape(agent.init, jax.random.key(0), batch)["params"]


def initial_state(agent: Agent, optimizer: optax.GradientTransformation, batch: Batch, *, seed: int) -> TrainState:
    """The state before the first step."""
    params = initial_params(agent, batch, seed=seed)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def parameter_table(params: Any) -> str:
    """One line per part of the agent with its number of parameters."""
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    lines = [f"  {name:<10}{count:>14,}" for name, count in counts.items()]
    return "\n".join(["parameters", *lines, f"  {'total':<10}{sum(counts.values()):>14,}"])
