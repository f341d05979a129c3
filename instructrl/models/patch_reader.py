"""Reading of patches by slots of attention; shared by all heads and by encoder.pooling=slots.

Shapes: B sequences, T steps, K cameras, P patches in a square grid, D patch width, E width of the query, W hidden
width, N slots.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.models.layers.initializers import Dense

CONTENT = 32  # numbers that a slot reads from the patches that it attends to, besides their place


class Reading(NamedTuple):
    """Contents that slots of attention read from the patches of each camera."""

    scores: Any  # B T K N P+1, logits over patches; the last one means out of view
    attended: Any  # B T K N D, mean patch
    summary: Any  # B T K Z, content and expected place of every slot
    hidden: Any  # B T K P W, the patches as the slots see them


class PatchReader(nn.Module):
    """Slots of attention over each camera's patches, which keep where things are.

    The query, the sentence or the policy's output that contains it, scales and shifts the hidden layer of a small MLP
    on every patch (FiLM, Perez et al. 2018); a slot's score is an output of the MLP and a product of its key with the
    query. So what a patch must look like depends on the sentence also if a frozen encoder did not read it. Patch
    coordinates enter the keys.
    """

    slots: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: Float[Array, "B #T E"], patches: Float[Array, "B T K P D"]) -> Reading:  # noqa: F821
        place = patch_places(round(patches.shape[-2] ** 0.5))
        key = Dense(self.dim, dtype=self.dtype, name="key")(patches)
        key = key + Dense(self.dim, use_bias=False, dtype=self.dtype, name="place")(place.astype(self.dtype))
        film = Dense(2 * self.dim, dtype=self.dtype, name="film")(query)[:, :, None, None]
        gain, shift = jnp.split(film, 2, axis=-1)
        x = nn.gelu(key * (1 + gain) + shift)
        scores = jnp.moveaxis(Dense(self.slots, dtype=self.dtype, name="score")(x), -1, -2)
        wanted = Dense(self.slots * self.dim, dtype=self.dtype, name="query")(query)
        wanted = jnp.broadcast_to(wanted, (*patches.shape[:2], wanted.shape[-1]))
        wanted = wanted.reshape(*patches.shape[:2], self.slots, self.dim)
        scores = scores + jnp.einsum("btkpw,btnw->btknp", key, wanted) * self.dim**-0.5
        absent = Dense(self.slots, dtype=self.dtype, name="absent")(jnp.mean(x, axis=-2))
        scores = jnp.concatenate([scores, absent[..., None]], axis=-1).astype(jnp.float32)
        attention = jax.nn.softmax(scores, axis=-1)[..., :-1]
        attended = jnp.einsum("btknp,btkpd->btknd", attention.astype(self.dtype), patches)
        content = Dense(CONTENT, dtype=self.dtype, name="read")(attended)
        expected = jnp.einsum("btknp,pc->btknc", attention, place, precision="highest")
        mass = jnp.sum(attention, axis=-1, keepdims=True)
        summary = jnp.concatenate([content, expected.astype(self.dtype), mass.astype(self.dtype)], axis=-1)
        return Reading(scores, attended, summary.reshape(*patches.shape[:3], -1), x)


def patch_centres(side: int) -> Float[Array, "P 2"]:
    """Column and row of each patch's centre, in patches from the image's top left corner."""
    rows, columns = jnp.meshgrid(jnp.arange(side) + 0.5, jnp.arange(side) + 0.5, indexing="ij")
    return jnp.stack([columns.ravel(), rows.ravel()], axis=-1)


def patch_places(side: int) -> Float[Array, "P 2"]:
    """Column and row of each patch's centre, from -1 (left, top) to 1 (right, bottom)."""
    return patch_centres(side) / side * 2 - 1
