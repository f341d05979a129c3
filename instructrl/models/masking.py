"""Random masks for masked pretraining: sampling of the visible patches and tokens.

As in the published objective, the visible indices are the same for all examples of a batch. Padding tokens are
sampled like any others, but are masked out of the attention and the loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def visible_count(length: int, mask_ratio: float) -> int:
    """Number of visible positions out of `length`, rounded down."""
    return int(length * (1 - mask_ratio))


def visible_indices(key: Array, length: int, *, mask_ratio: float) -> Int[Array, " N"]:
    """Sample the visible positions out of `length` without replacement, in ascending order."""
    return jnp.sort(jax.random.permutation(key, length)[: visible_count(length, mask_ratio)])


def hidden_mask(visible: Int[Array, " N"], length: int) -> Float[Array, " length"]:
    """Mask with 1 at hidden positions and 0 at visible ones."""
    return jnp.ones(length).at[visible].set(0)
