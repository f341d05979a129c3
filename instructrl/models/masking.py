"""What pretraining hides: which places of an image or a sentence are kept.

The published objective keeps as many places in every image of a batch, and the same ones: so do we. Padding counts as a
place like any other when places are drawn, is looked at by nobody, and is never in the loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def kept_count(length: int, hidden_share: float) -> int:
    """How many of `length` places are kept: the share of them that is not hidden, rounded down."""
    return int(length * (1 - hidden_share))


def kept_places(key: Array, length: int, *, hidden_share: float) -> Int[Array, " N"]:
    """The places of `length` that are kept, drawn without repetition, in rising order."""
    return jnp.sort(jax.random.permutation(key, length)[: kept_count(length, hidden_share)])


def hidden_places(kept: Int[Array, " N"], length: int) -> Float[Array, " length"]:
    """1 where a place is hidden, 0 where it is kept."""
    return jnp.ones(length).at[kept].set(0)
