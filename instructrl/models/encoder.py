"""From images and the instruction to features, one camera image at a time.

Letters: B sequences, T steps, K cameras, H W pixels, P patches, D width, L tokens, F pooled width.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config import EncoderConfig


class Features(NamedTuple):
    """What the policy and the heads read of a camera image and the instruction."""

    pooled: Any  # B T K F
    patches: Any  # B T K P D, row-major from the image's top left


class ScratchTiny(nn.Module):
    """A light patch encoder, trained end to end: patches of pixels, local mixing, the instruction as a gain.

    The instruction (mean of its word embeddings) scales the patches' channels in every block (FiLM, Perez
    et al. 2018) and stands beside their mean in the pooled features.
    """

    vocabulary_size: int
    dim: int
    depth: int
    patch_size: int
    text: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        batch, steps, cameras, height, width, _ = images.shape
        text_BD = self.read(tokens, text_padding_mask)
        per_image = jnp.repeat(text_BD, steps * cameras, axis=0)
        x = (images.reshape(-1, height, width, 3).astype(self.dtype) - 127.5) / 64.0
        x = merge_cells(x, 4)
        x = nn.gelu(nn.Dense(self.dim // 2, dtype=self.dtype, name="embed_cells")(x))
        x = merge_cells(x, self.patch_size // 4)
        x = nn.Dense(self.dim, dtype=self.dtype, name="embed_patches")(x)
        for index in range(self.depth):
            x = LocalBlock(self.dim, self.dtype, name=f"block_{index}")(x, per_image)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        patches = x.reshape(batch, steps, cameras, -1, self.dim)
        words = jnp.broadcast_to(text_BD[:, None, None], (batch, steps, cameras, self.dim))
        return Features(jnp.concatenate([patches.mean(axis=-2), words], axis=-1), patches)

    def read(self, tokens: Int[Array, "B L"], text_padding_mask: Float[Array, "B L"]) -> Float[Array, "B D"]:
        """Mean of the words' embeddings, each with a learnt weight; zero for no words or when `text` is off."""
        init = nn.initializers.normal(0.02)
        words = nn.Embed(self.vocabulary_size, self.dim, embedding_init=init, name="words")(tokens)
        weight = jnp.exp(nn.Embed(self.vocabulary_size, 1, embedding_init=init, name="word_weight")(tokens))
        weight = weight * (1 - text_padding_mask)[..., None] * float(self.text)
        return ((words * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1e-6)).astype(self.dtype)


class LocalBlock(nn.Module):
    """A 3 x 3 convolution whose channels the instruction scales and shifts, then a residual."""

    dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "M h w D"], text: Float[Array, "M D"]) -> Float[Array, "M h w D"]:
        gain, shift = jnp.split(nn.Dense(2 * self.dim, dtype=self.dtype, name="film")(text)[:, None, None], 2, axis=-1)
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        y = nn.Conv(self.dim, (3, 3), dtype=self.dtype, name="mix")(y)
        y = nn.gelu(y * (1 + gain) + shift)
        return x + nn.Dense(self.dim, dtype=self.dtype, name="out")(y)


def merge_cells(x: Float[Array, "M h w C"], factor: int) -> Array:
    """Stack each factor x factor neighbourhood into channels: [M, h/factor, w/factor, factor^2 C]."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height // factor, width // factor, -1)


def make_encoder(config: EncoderConfig, *, vocabulary_size: int, dtype: Any = jnp.float32) -> nn.Module:
    """The encoder that a configuration describes."""
    kinds = {"scratch_tiny": ScratchTiny}
    return kinds[config.kind](
        vocabulary_size=vocabulary_size,
        dim=config.dim,
        depth=config.depth,
        patch_size=config.patch_size,
        text=config.text,
        dtype=dtype,
    )
