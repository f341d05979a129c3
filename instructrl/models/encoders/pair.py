"""An image encoder beside the text tower of another encoder.

Shape suffixes: B sequences, T steps, K cameras, L text tokens.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.model import EncoderConfig
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig
from instructrl.models.modules import make_module
from instructrl.types import Features


class Pair(nn.Module):
    """Features of the image from one encoder, of the instruction from another; parameters under `image` and `text`."""

    config: EncoderConfig
    vocabulary_size: int
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    def setup(self) -> None:
        self.image, self.text = (
            make_module(part, vocabulary_size=self.vocabulary_size, dtype=self.dtype, execution=self.execution)
            for part in self.config.parts.values()
        )

    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        features = self.image(images, tokens, text_padding_mask)
        return features._replace(text=self.text.text_features(tokens, text_padding_mask))
