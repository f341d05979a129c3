"""A light patch encoder that trains in minutes on two cores.

Shape suffixes: B sequences, T steps, K cameras, M images (all cameras and steps), H W pixels, h w patches, D width,
L tokens.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.encoders import ScratchTinyConfig
from instructrl.config.model import pooled_layers
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, run_blocks
from instructrl.models.layers.convolution import Convolution
from instructrl.models.layers.image_ops import resize
from instructrl.models.layers.initializers import Dense
from instructrl.models.layers.words import mean_of_words
from instructrl.types import Features


class ScratchTiny(nn.Module):
    """Patch embedding, 3x3 convolutions and FiLM conditioning on the instruction.

    The instruction (a mean of its token embeddings) scales and shifts the channels in every block (FiLM, Perez et
    al. 2018) and is a separate feature.
    """

    config: ScratchTinyConfig
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
        config, dtype = self.config, self.dtype
        batch, steps, cameras = images.shape[:3]
        words = mean_of_words(tokens, text_padding_mask, vocabulary_size=self.vocabulary_size, width=config.dim)
        text_BD = (words * float(config.text)).astype(dtype)
        per_image = jnp.repeat(text_BD, steps * cameras, axis=0)
        x = (resize(images.reshape(-1, *images.shape[3:]), config.image_size).astype(dtype) - 127.5) / 64.0
        x = merge_cells(x, 4)
        x = nn.gelu(Dense(config.dim // 2, dtype=dtype, name="embed_cells")(x))
        x = merge_cells(x, config.patch_size // 4)
        x = Dense(config.dim, dtype=dtype, name="embed_patches")(x)
        make, names = partial(LocalBlock, config.dim, dtype), [f"block_{index}" for index in range(config.depth)]
        x, layers = run_blocks(self, make, names, x, per_image, execution=self.execution, readout=spatial_mean)
        x = nn.LayerNorm(dtype=dtype, name="norm")(x)
        layers[max(config.depth, 1) - 1 :] = [spatial_mean(x)]
        pooled = jnp.concatenate([layers[index] for index in pooled_layers(config)], axis=-1)
        patches = x.reshape(batch, steps, cameras, -1, config.dim)
        return Features(pooled.reshape(batch, steps, cameras, -1), text_BD, patches)


class LocalBlock(nn.Module):
    """Residual block: a 3 x 3 convolution with FiLM conditioning on the instruction."""

    dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "M h w D"], text: Float[Array, "M D"]) -> Float[Array, "M h w D"]:
        gain, shift = jnp.split(Dense(2 * self.dim, dtype=self.dtype, name="film")(text)[:, None, None], 2, axis=-1)
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        y = Convolution(self.dim, 3, self.dtype, name="mix")(y)
        y = nn.gelu(y * (1 + gain) + shift)
        return x + Dense(self.dim, dtype=self.dtype, name="out")(y)


def spatial_mean(x: Float[Array, "M h w D"]) -> Float[Array, "M D"]:
    """Mean over patches."""
    return x.mean(axis=(1, 2))


def merge_cells(x: Float[Array, "M h w C"], factor: int) -> Array:
    """Space-to-depth: stack each factor x factor cell into channels, [M, h/factor, w/factor, factor^2 C]."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height // factor, width // factor, -1)
