"""Checks of an encoder and a head of another package, applied before a training, for what shapes do not show.

Both are applied without random keys. The head is given random numbers: an action is finite, and what belongs to one
step follows from this step alone, since padded steps are left out of means later, and an agent acts step by step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from flax.errors import InvalidRngError

from instructrl.actions import canonical_quaternion, check_action
from instructrl.config.model import EncoderConfig, HeadConfig
from instructrl.errors import OURS, REPAIR, InputError, format_value, place_in_package
from instructrl.models.agent import Agent
from instructrl.models.initialization import parameters_alone
from instructrl.types import Batch

CHANGED = (0, 1)  # the sequence and the step whose numbers are changed


def check_applied(agent: Agent, batch: Batch) -> None:
    """Apply an agent's encoder and head if one of them is of another package.

    Args:
        agent: the agent.
        batch: with images; at least two sequences of two steps.

    Raises:
        InputError: a module asks for random keys, an array has a wrong form, an action or a heatmap has wrong numbers,
            or what belongs to one step follows from another one, as a loss that is averaged over the batch.
    """
    encoders = list(agent.encoder_config.parts.values()) or [agent.encoder_config]
    if all(map(is_ours, encoders)) and is_ours(agent.head_config):
        return
    key, inputs = jax.random.key(0), (batch.images, batch.tokens, batch.text_padding_mask)
    params = jax.eval_shape(lambda: init(agent, key, *inputs, method="encode"))
    with without_random_keys("encoder", agent.encoder_config):
        features = jax.eval_shape(lambda params: agent.apply(params, *inputs, method="encode"), params)
    if agent.reads_patches:
        agent.check_patches(features)
    check_applied_head(agent, batch._replace(images=None), patches=features.patches)


def check_applied_head(agent: Agent, batch: Batch, *, patches: jax.ShapeDtypeStruct | None) -> None:
    """Apply an agent's head to random numbers, to others at one step, and to single steps, and check what it gives.

    Args:
        agent: the agent.
        batch: as for `check_applied`.
        patches: the form of the encoder's patches; None if it gives none.

    Raises:
        InputError: as `check_applied`.
    """
    rng, steps = np.random.default_rng(0), batch.step_mask.shape
    first, second = (draw_inputs(rng, agent, batch, patches) for _ in range(2))

    def change(value: np.ndarray, other: np.ndarray) -> np.ndarray:
        changed = value.copy()
        if value.shape[:2] == steps:  # not what belongs to a sequence, such as its tokens
            changed[CHANGED] = other[CHANGED]
        return changed

    single = jax.tree.map(lambda value: value[:, :1] if value.shape[:2] == steps else value, first)
    params = jax.jit(partial(init, agent, method="head_outputs"))(jax.random.key(0), *first)
    apply: Callable[..., dict[str, Any]] = jax.jit(partial(agent.apply, method="head_outputs"))
    with without_random_keys("head", agent.head_config):
        found, changed, acting = (
            as_float32(apply(params, *x)) for x in (first, jax.tree.map(change, first, second), single)
        )
    for name, value in found.items():
        where = f"head.kind={agent.head_config.kind}: what {implementation(agent.head_config)}.{name} returns"
        for values in (value, acting[name]) if name != "loss" else ():  # training watches the loss
            check_finite(where, values)
            if name == "decode":
                check_actions(where, values)
        check_other_steps(where, value, changed[name])


def init(agent: Agent, key: jax.Array, *inputs: Any, method: str) -> dict[str, Any]:
    """Random parameters of what a method of an agent uses, as `apply` takes them; raises InputError for others."""
    return {"params": parameters_alone({"params": {}, **agent.init(key, *inputs, method=method)})}


def check_actions(where: str, actions: np.ndarray) -> None:
    """Raise InputError for the first action that no simulator executes, such as one without a unit quaternion."""
    for action in actions.reshape(-1, actions.shape[-1]):
        try:
            check_action(action)
        except InputError as error:
            raise InputError(f"{where}: {error}; {REPAIR}") from None


def check_finite(where: str, values: np.ndarray) -> None:
    """Raise InputError for numbers that are not finite, with the first row of them."""
    broken = ~np.isfinite(values).all(axis=-1)
    if broken.any():
        found = format_value(values[broken][0].tolist())
        raise InputError(f"{where}: found {found} for random numbers; allowed: finite ones; {REPAIR}")


def check_other_steps(where: str, before: np.ndarray, after: np.ndarray) -> None:
    """Raise InputError if numbers [B, T, ...] differ at another step than the one whose inputs were changed."""
    differ = ~np.isclose(before, after, rtol=1e-3, equal_nan=True)
    differ[CHANGED] = False
    if differ.any():
        sequence, step = np.argwhere(differ)[0][:2]
        raise InputError(
            f"{where}: found other numbers at sequence {sequence}, step {step} when the inputs at sequence "
            f"{CHANGED[0]}, step {CHANGED[1]} change; allowed: what follows from the same step alone, without a mean "
            f"over sequences or steps; {REPAIR}"
        )


def as_float32(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays in numpy's float32."""
    return {name: np.asarray(value, np.float32) for name, value in arrays.items()}


def draw_inputs(
    rng: np.random.Generator, agent: Agent, batch: Batch, patches: jax.ShapeDtypeStruct | None
) -> tuple[np.ndarray, np.ndarray | None, Batch]:
    """Random inputs of `Agent.head_outputs`."""
    hidden = rng.normal(size=(*batch.step_mask.shape, agent.policy_config.dim)).astype(agent.dtype)
    seen = None if patches is None else rng.normal(size=patches.shape).astype(patches.dtype)
    batch = batch._replace(actions=draw_actions(rng, batch.actions, agent))
    if batch.chunks is not None:
        batch = batch._replace(chunks=draw_actions(rng, batch.chunks, agent))
    return hidden, seen, batch


def draw_actions(rng: np.random.Generator, like: np.ndarray, agent: Agent) -> np.ndarray:
    """Random actions in the agent's workspace, of the shape of others."""
    position = rng.uniform(*agent.workspace.bounds, size=(*like.shape[:-1], 3))
    rotation = canonical_quaternion(rng.normal(size=(*like.shape[:-1], 4)))
    flags = rng.integers(0, 2, (*like.shape[:-1], like.shape[-1] - 7))
    return np.concatenate([position, rotation, flags], axis=-1).astype(like.dtype)


@contextmanager
def without_random_keys(group: str, config: EncoderConfig | HeadConfig) -> Iterator[None]:
    """Raise InputError instead of flax's error for a module that asks for a random key."""
    try:
        yield
    except InvalidRngError as error:
        place = place_in_package(error)
        raise InputError(
            f"{group}.kind={config.kind}: {implementation(config)}: found a use of random keys"
            f"{f' in {place}' if place else ''}, as of nn.Dropout or make_rng; allowed: a module that is applied "
            f"without, so no Dropout; {REPAIR}"
        ) from None


def implementation(config: EncoderConfig | HeadConfig) -> str:
    """Module and name of the class that settings name."""
    return type(config).implementation.replace(":", ".")


def is_ours(config: EncoderConfig | HeadConfig) -> bool:
    """True if the class that settings name is one of InstructRL."""
    return implementation(config).startswith(f"{OURS}.")
