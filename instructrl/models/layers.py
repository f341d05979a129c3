"""Transformer pieces that the encoder, the policy and the heads share.

Letters: B batch, S sequence, D width, N heads, H head width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


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
    """Multi-head self-attention under a mask of who may look at whom."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"], mask_SS: Bool[Array, "S S"]) -> Float[Array, "B S D"]:
        width = x_BSD.shape[-1]
        shape = (3, self.heads, width // self.heads)
        qkv = nn.DenseGeneral(shape, dtype=self.dtype, name="query_key_value")(x_BSD)
        query_BSNH, key_BSNH, value_BSNH = (qkv[..., i, :, :] for i in range(3))
        mixed_BSNH = jax.nn.dot_product_attention(query_BSNH, key_BSNH, value_BSNH, mask=mask_SS[None, None])
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(mixed_BSNH)


class Block(nn.Module):
    """Pre-norm transformer block."""

    heads: int
    mlp_ratio: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"], mask_SS: Bool[Array, "S S"]) -> Float[Array, "B S D"]:
        width = x_BSD.shape[-1]
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_attention")(x_BSD)
        x_BSD = x_BSD + Attention(self.heads, self.dtype, name="attention")(normed, mask_SS)
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x_BSD)
        return x_BSD + Mlp(int(width * self.mlp_ratio), width, self.dtype, name="mlp")(normed)
