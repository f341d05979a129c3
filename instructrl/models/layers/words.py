"""An instruction as a mean of its words.

Shape suffixes: B sequences, L tokens, D width.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from instructrl.models.layers.initializers import normal


def mean_of_words(
    tokens: Int[Array, "B L"], text_padding_mask: Float[Array, "B L"], *, vocabulary_size: int, width: int
) -> Float32[Array, "B D"]:
    """Mean of token embeddings with learnt weights, zero without tokens; the parameters are of the calling module."""
    init = normal(0.02)
    words_BLD = nn.Embed(vocabulary_size, width, embedding_init=init, name="words")(tokens)
    weight_BL = jnp.exp(nn.Embed(vocabulary_size, 1, embedding_init=init, name="word_weight")(tokens))[..., 0]
    weight_BL = weight_BL * (1 - text_padding_mask)
    total_B1 = jnp.maximum(weight_BL.sum(axis=1, keepdims=True), 1e-6)
    return (words_BLD * weight_BL[..., None]).sum(axis=1) / total_B1
