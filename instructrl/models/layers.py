"""Transformer pieces that the encoder, the policy and the heads share.

Letters: B batch, S sequence, A tokens that ask, D width, N heads, H head width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EVERY = slice(None)


class Mlp(nn.Module):
    """Dense, GELU, Dense: D -> hidden -> out."""

    hidden: int
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... out"]:
        x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="expand")(x))
        return nn.Dense(self.out, dtype=self.dtype, name="contract")(x)


class Attention(nn.Module):
    """Multi-head self-attention under a mask of who may look at whom; `asking` are the tokens that look."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], mask_SS: Bool[Array, "S S"], asking: slice = EVERY
    ) -> Float[Array, "B A D"]:
        width = x_BSD.shape[-1]
        shape = (3, self.heads, width // self.heads)
        qkv = nn.DenseGeneral(shape, dtype=self.dtype, name="query_key_value")(x_BSD)
        query_BSNH, key_BSNH, value_BSNH = (qkv[..., i, :, :] for i in range(3))
        mask_AS = mask_SS[asking]
        mixed_BANH = jax.nn.dot_product_attention(query_BSNH[:, asking], key_BSNH, value_BSNH, mask=mask_AS[None, None])
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(mixed_BANH)


class Block(nn.Module):
    """Pre-norm transformer block; it answers for the tokens `asking`, which look at all."""

    heads: int
    mlp_ratio: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], mask_SS: Bool[Array, "S S"], asking: slice = EVERY
    ) -> Float[Array, "B A D"]:
        width = x_BSD.shape[-1]
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_attention")(x_BSD)
        mixed = Attention(self.heads, self.dtype, name="attention")(normed, mask_SS, asking)
        x_BAD = x_BSD[:, asking] + mixed
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x_BAD)
        return x_BAD + Mlp(int(width * self.mlp_ratio), width, self.dtype, name="mlp")(normed)
