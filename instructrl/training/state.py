"""What training carries from one step to the next, and how it begins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from instructrl.batch import Batch, BatchSizes, fake_batch
from instructrl.config import TrainConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.models.agent import Agent
from instructrl.schema import shown
from instructrl.training.hardware import compute_dtype, strategy
from instructrl.training.paths import chosen


class TrainState(NamedTuple):
    """Everything that must survive an interruption; data order and randomness follow from `step`."""

    step: Any  # int32 scalar: optimizer steps taken
    params: Any  # those that are trained
    opt_state: Any
    average: Any = None  # of the parameters over the steps; None unless optimizer.ema

    def acting(self) -> Any:
        """The trained parameters that validate and act: their average where there is one."""
        return self.params if self.average is None else self.average


def make_agent(config: TrainConfig, *, vocabulary_size: int) -> Agent:
    """The agent that a run's configuration describes."""
    how: Any = {"dtype": compute_dtype(config.hardware), "strategy": strategy(config.hardware)}
    return Agent(config.encoder, config.policy, config.head, vocabulary_size, config.sim.image_size, **how)


def one_step(config: TrainConfig, tokenizer: Tokenizer) -> Batch:
    """The smallest batch from which every parameter's shape follows."""
    return fake_batch(BatchSizes(1, 1, len(config.sim.cameras), config.sim.image_size, tokenizer.length))


def initial_params(agent: Agent, batch: Batch, *, seed: int) -> Any:
    """Random parameters, a function of the seed; `batch` gives the shapes only."""
    return jax.jit(agent.init)(jax.random.key(seed), batch)["params"]


def abstract_params(agent: Agent, batch: Batch) -> Any:
    """Shapes and types of the agent's parameters; nothing is computed."""
    return jax.eval_shape(agent.init, jax.random.key(0), batch)["params"]


def split(params: Any, config: TrainConfig) -> tuple[Any, Any]:
    """The parameters that are trained, and the frozen ones: those of a frozen encoder and of `training.freeze`.

    Both are trees of dicts without empty branches; `merged` puts them together again.

    Raises:
        InputError: a pattern means no parameter, or nothing is left to train.
    """
    marked = chosen(params, config.training.freeze or [], key="training.freeze")
    if config.encoder.frozen:
        marked |= {"encoder": jax.tree.map(lambda _: True, params["encoder"])}
    trained, frozen = (_part(params, marked, wanted) for wanted in (False, True))
    if not trained:
        raise InputError(
            f"training.freeze: found {shown(config.training.freeze)}, which leaves no parameter to train; "
            f"the parts are {', '.join(params)}"
        )
    return trained, frozen


def _part(tree: Any, marked: Any, wanted: bool) -> Any:
    """The leaves of a tree of dicts that are marked as wanted."""
    kept: dict[str, Any] = {}
    for name, branch in tree.items():
        if isinstance(branch, dict):
            below = _part(branch, marked[name], wanted)
            kept |= {name: below} if below else {}
        elif marked[name] is wanted:
            kept[name] = branch
    return kept


def merged(first: Any, second: Any) -> Any:
    """One tree of dicts from two that have no leaf in common."""
    both = {name: merged(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **both}


def initial_state(params: Any, optimizer: optax.GradientTransformation, *, ema: bool = False) -> TrainState:
    """The state before the first step; with `ema` it keeps an average of the parameters.

    Raises:
        InputError: a pattern of the optimizer's settings means no parameter.
    """
    average = jax.tree.map(jnp.copy, params) if ema else None  # a step gives both up, so they share no memory
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def parameter_table(params: Any, frozen: Any) -> str:
    """One line per part of the agent with its number of parameters."""
    still, counts = _counts(frozen), _counts(merged(params, frozen))
    lines = ["parameters"]
    for name, count in sorted(counts.items()):
        note = "" if name not in still else "  frozen" if still[name] == count else f"  {still[name]:,} frozen"
        lines.append(f"  {name:<10}{count:>14,}{note}")
    return "\n".join([*lines, f"  {'total':<10}{sum(counts.values()):>14,}"])


def _counts(params: Any) -> dict[str, int]:
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
