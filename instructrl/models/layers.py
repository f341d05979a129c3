"""Transformer pieces that the encoder, the policy and the heads share.

Letters: B batch, S sequence, R tokens of it that are answered, D width, N heads, H head width.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from instructrl.models.blocks import attend

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


class QueryKeyValue(nn.Module):
    """A linear layer to queries, keys and values: as one, or queries of some tokens only."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"], asking: slice) -> tuple[Array, Array, Array]:
        width = x_BSD.shape[-1]
        shape = (width, 3, self.heads, width // self.heads)
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", lambda key: init(key, (width, 3 * width)).reshape(shape))
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        x_BSD, kernel, bias = nn.dtypes.promote_dtype(x_BSD, kernel, bias, dtype=self.dtype)
        if asking == EVERY:
            qkv = jnp.einsum("bsd,dcnh->bscnh", x_BSD, kernel) + bias
            return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        query_BRNH = jnp.einsum("brd,dnh->brnh", x_BSD[:, asking], kernel[:, 0]) + bias[0]
        kv = jnp.einsum("bsd,dcnh->bscnh", x_BSD, kernel[:, 1:]) + bias[1:]
        return query_BRNH, kv[:, :, 0], kv[:, :, 1]


class Attention(nn.Module):
    """Multi-head self-attention under a mask of who may look at whom."""

    heads: int
    dtype: Any = jnp.float32
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], mask_SS: Bool[Array, "S S"], asking: slice
    ) -> Float[Array, "B R D"]:
        width = x_BSD.shape[-1]
        query, key, value = QueryKeyValue(self.heads, self.dtype, name="query_key_value")(x_BSD, asking)
        mixed_BRNH = attend(query, key, value, mask=mask_SS[asking][None, None], attention=self.attention)
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(mixed_BRNH)


class Block(nn.Module):
    """Pre-norm transformer block. Only the tokens `asking` are answered, R of the S that they look at."""

    heads: int
    mlp_ratio: float
    dtype: Any = jnp.float32
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], mask_SS: Bool[Array, "S S"], asking: slice = EVERY
    ) -> Float[Array, "B R D"]:
        width = x_BSD.shape[-1]
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_attention")(x_BSD)
        mixed = Attention(self.heads, self.dtype, self.attention, name="attention")(normed, mask_SS, asking)
        x_BRD = x_BSD[:, asking] + mixed
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x_BRD)
        return x_BRD + Mlp(int(width * self.mlp_ratio), width, self.dtype, name="mlp")(normed)
