"""Memory of the policy while it acts: keys and values of the tokens of earlier steps, so that an action costs one step.

A memory is a tree of arrays [B C N H], for every block the keys and the values of C tokens: of `capacity` steps, the O
observation tokens and the action token of each. Step s has the place s modulo `capacity`.

Shape suffixes: B episodes, O observation tokens, S = O + 2 new tokens, C remembered tokens, N heads, H head width,
E policy width.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32

from instructrl.models.layers.positional import sinusoid
from instructrl.models.token_order import TokenKind, attends, step_kinds


class NextStep(NamedTuple):
    """Position, visibility and destination of the tokens of one more step of every episode.

    The tokens are those of `Policy.embed` for one step whose action is the one before: observations and prediction of
    this step, and the action of the last.
    """

    position: Float32[Any, "B new E"]  # embedding of each token's step
    mask: Bool[Any, "B new keys"]  # True if the token attends to a key: of the memory, then new
    remembered: Bool[Any, "B kept"]  # True where the memory holds a token of this episode
    destination: Int32[Any, "B new"]  # place of each token in the memory; C: none


@dataclass(frozen=True)
class MemoryLayout:
    """Sizes that determine the places of tokens in a memory."""

    observations: int  # O, observation tokens of a step
    capacity: int  # steps; at least the policy's window, or else the steps of the longest episode
    window: int | None  # of the policy
    width: int  # E, of the policy

    @property
    def tokens(self) -> int:
        """C, tokens in the memory."""
        return self.capacity * (self.observations + 1)


def next_step(steps: np.ndarray, acting: np.ndarray, layout: MemoryLayout) -> NextStep:
    """Prepare one more step.

    Args:
        steps: int [B], the number of earlier steps of each episode.
        acting: bool [B]; nothing of the others is remembered.
        layout: of the memory.
    """
    kind = step_kinds(layout.observations)
    is_action, is_kept = kind == TokenKind.ACTION, kind != TokenKind.PREDICTION
    step = steps[:, None] - is_action  # [B S]
    kept_kind = np.tile(kind[is_kept], layout.capacity)
    newest = steps[:, None] - 1 - (kept_kind == TokenKind.ACTION)  # [B C], of what is remembered
    kept_step = newest - (newest - np.repeat(np.arange(layout.capacity), is_kept.sum())) % layout.capacity
    key_step, key_kind = np.concatenate([kept_step, step], axis=1), np.concatenate([kept_kind, kind])
    mask = attends(step[:, :, None], kind[:, None], key_step[:, None], key_kind, window=layout.window)
    itself = np.eye(len(kind), layout.tokens + len(kind), layout.tokens, dtype=bool)
    place = step % layout.capacity * is_kept.sum() + np.cumsum(is_kept) - 1
    return NextStep(
        position=sinusoid(step, layout.width),
        mask=(mask & (key_step >= 0)[:, None]) | itself,
        remembered=kept_step >= 0,
        destination=np.where(acting[:, None] & is_kept & (step >= 0), place, layout.tokens).astype(np.int32),
    )


def resize(memory: Any, tokens: int) -> Any:
    """The memory with room for another number of tokens; those in places that remain are kept."""

    def resized(leaf: jax.Array) -> jax.Array:
        kept = leaf[:, :tokens]
        return jnp.pad(kept, ((0, 0), (0, tokens - kept.shape[1]), (0, 0), (0, 0)))

    return jax.tree.map(resized, memory)


def recall(memory: Any, step: NextStep) -> Any:
    """The memory without what other episodes left: a masked token counts zero times, which is NaN if it is infinite."""
    return jax.tree.map(lambda leaf: jnp.where(step.remembered[..., None, None], leaf, 0), memory)


def remember(memory: Any, new: Any, step: NextStep) -> Any:
    """The memory with the keys and values [B S N H] of the new tokens in their places."""
    rows = jnp.arange(step.destination.shape[0])[:, None]
    return jax.tree.map(lambda kept, leaf: kept.at[rows, step.destination].set(leaf, mode="drop"), memory, new)
