"""An encoder that reads the instruction and looks at no image: the policy acts by the simulator's state.

Shape suffixes: B sequences, T steps, K cameras, L tokens, D width.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.encoders import SentenceConfig
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig
from instructrl.models.layers.words import mean_of_words
from instructrl.types import Features


class Sentence(nn.Module):
    """A mean of token embeddings with learnt weights; the only feature of an image is a zero."""

    config: SentenceConfig
    vocabulary_size: int
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    @nn.compact
    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        config = self.config
        text_BD = mean_of_words(tokens, text_padding_mask, vocabulary_size=self.vocabulary_size, width=config.dim)
        pooled_BTK1 = jnp.zeros((*images.shape[:3], 1), self.dtype)
        return Features(pooled_BTK1, (text_BD * float(config.text)).astype(self.dtype), None)
