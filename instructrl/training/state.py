"""What training carries from one step to the next, and how it begins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from instructrl.batch import Batch, BatchSizes, fake_batch
from instructrl.config import TrainConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.models.agent import Agent
from instructrl.training.hardware import compute_dtype


class TrainState(NamedTuple):
    """Everything that must survive an interruption; data order and randomness follow from `step`."""

    step: Any  # int32 scalar: optimizer steps taken
    params: Any  # those that are trained
    opt_state: Any


def make_agent(config: TrainConfig, *, vocabulary_size: int) -> Agent:
    """The agent that a run's configuration describes."""
    dtype = compute_dtype(config.hardware)
    return Agent(config.encoder, config.policy, config.head, vocabulary_size, config.sim.image_size, dtype)


def one_step(config: TrainConfig, tokenizer: Tokenizer) -> Batch:
    """The smallest batch from which every parameter's shape follows."""
    return fake_batch(BatchSizes(1, 1, len(config.sim.cameras), config.sim.image_size, tokenizer.length))


def initial_params(agent: Agent, batch: Batch, *, seed: int, shapes_of: tuple[str, ...] = ()) -> Any:
    """Random parameters, a function of the seed; `batch` gives the shapes only.

    Of the parts named in `shapes_of`, which come from elsewhere, only shapes and types are told: the rest is the same.
    """

    def init(key: Any, batch: Batch) -> Any:
        return {name: part for name, part in agent.init(key, batch)["params"].items() if name not in shapes_of}

    shapes = abstract_params(agent, batch) if shapes_of else {}
    return jax.jit(init)(jax.random.key(seed), batch) | {name: shapes[name] for name in shapes_of}


def abstract_params(agent: Agent, batch: Batch) -> Any:
    """Shapes and types of the agent's parameters; nothing is computed."""
    return jax.eval_shape(agent.init, jax.random.key(0), batch)["params"]


def split(params: Any, *, frozen: bool) -> tuple[Any, Any]:
    """The parameters that are trained, and those of a frozen encoder."""
    if not frozen:
        return params, {}
    return {name: part for name, part in params.items() if name != "encoder"}, {"encoder": params["encoder"]}


def initial_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def parameter_table(params: Any, frozen: Any) -> str:
    """One line per part of the agent with its number of parameters."""
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in (params | frozen).items()}
    lines = [f"  {name:<10}{count:>14,}{'  frozen' * (name in frozen)}" for name, count in sorted(counts.items())]
    return "\n".join(["parameters", *lines, f"  {'total':<10}{sum(counts.values()):>14,}"])
