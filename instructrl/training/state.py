"""The training state, and the split of parameters into trained and frozen ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, PyTree

from instructrl.config.fields import format_value
from instructrl.config.model import EncoderConfig
from instructrl.config.training import TrainingConfig
from instructrl.errors import InputError
from instructrl.training.param_paths import pattern_mask
from instructrl.training.types import Params


class TrainState(NamedTuple):
    """Everything that a checkpoint must hold; data order and randomness are determined by `step`."""

    step: Int32[Array, ""]  # optimizer steps taken
    params: Params  # trainable parameters
    opt_state: PyTree  # of the optimizer
    average: Params | None = None  # EMA of the parameters; None unless optimizer.ema

    def eval_params(self) -> Params:
        """Trainable parameters for validation and acting: their EMA if there is one."""
        return self.params if self.average is None else self.average


def split_params(params: Params, training: TrainingConfig, encoder: EncoderConfig) -> tuple[Params, Params]:
    """Split parameters into trainable and frozen ones (a frozen encoder, and those that `training.freeze` matches).

    Both are trees of dicts without empty branches; `merge_params` is the inverse.

    Raises:
        InputError: a pattern matches no parameter, or no parameter is trainable.
    """
    marked = pattern_mask(params, training.freeze or [], key="training.freeze")
    if encoder.frozen:
        marked |= {"encoder": jax.tree.map(lambda _: True, params["encoder"])}
    trained, frozen = (_select(params, marked, wanted) for wanted in (False, True))
    if not trained:
        raise InputError(
            f"training.freeze: found {format_value(training.freeze)}, which leaves no parameter to train; "
            f"the parts are {', '.join(params)}"
        )
    return trained, frozen


def _select(tree: Params, marked: Params, wanted: bool) -> Params:
    """The leaves of a tree of dicts whose mark is `wanted`."""
    selected: Params = {}
    for name, branch in tree.items():
        if isinstance(branch, dict):
            below = _select(branch, marked[name], wanted)
            selected |= {name: below} if below else {}
        elif marked[name] is wanted:
            selected[name] = branch
    return selected


def merge_params(first: Params, second: Params) -> Params:
    """Merge two trees of dicts that have no leaf in common."""
    both = {name: merge_params(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **both}


def initial_state(params: Params, optimizer: optax.GradientTransformation, *, ema: bool = False) -> TrainState:
    """The state before the first step; with `ema` it has an average of the parameters.

    Raises:
        InputError: a pattern of the optimizer's settings matches no parameter.
    """
    average = jax.tree.map(jnp.copy, params) if ema else None  # a step donates both, so they must not share buffers
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def parameter_table(params: Params, frozen: Params) -> str:
    """Table of the number of parameters per part of the agent."""
    frozen_counts, counts = _counts(frozen), _counts(merge_params(params, frozen))
    lines = ["parameters"]
    for name, count in sorted(counts.items()):
        fixed = frozen_counts.get(name)
        note = "" if fixed is None else "  frozen" if fixed == count else f"  {fixed:,} frozen"
        lines.append(f"  {name:<10}{count:>14,}{note}")
    return "\n".join([*lines, f"  {'total':<10}{sum(counts.values()):>14,}"])


def _counts(params: Params) -> dict[str, int]:
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
