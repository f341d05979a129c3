"""Transformer layers shared by encoder, policy and heads.

Shape suffixes: B batch, S sequence, R query tokens (a slice of the sequence), K keys (remembered ones, then the
sequence), D width, N heads, H head width.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from instructrl.models.layers.attention import attend
from instructrl.models.layers.initializers import Dense, DenseGeneral, lecun_normal

ALL_TOKENS = slice(None)
MEMORY, NEW_MEMORY = "memory", "new_memory"  # collections of variables: what attention reads beside its input, and adds


def first_token(x_BSD: Float[Array, "B S D"]) -> Float[Array, "B D"]:
    """The first token, which is the class token of an image encoder."""
    return x_BSD[:, 0]


class Mlp(nn.Module):
    """Dense, GELU, Dense: D -> hidden -> out."""

    hidden: int
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... out"]:
        x = nn.gelu(Dense(self.hidden, dtype=self.dtype, name="expand")(x))
        return Dense(self.out, dtype=self.dtype, name="contract")(x)


class QueryKeyValue(nn.Module):
    """Linear projection to queries, keys and values, fused; queries optionally of a slice of the tokens only."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"], query_slice: slice) -> tuple[Array, Array, Array]:
        width = x_BSD.shape[-1]
        shape = (width, 3, self.heads, width // self.heads)
        kernel = self.param("kernel", lambda key: lecun_normal(key, (width, 3 * width)).reshape(shape))
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        x_BSD, kernel, bias = nn.dtypes.promote_dtype(x_BSD, kernel, bias, dtype=self.dtype)
        if query_slice == ALL_TOKENS:
            qkv = jnp.einsum("bsd,dcnh->bscnh", x_BSD, kernel) + bias
            return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        query_BRNH = jnp.einsum("brd,dnh->brnh", x_BSD[:, query_slice], kernel[:, 0]) + bias[0]
        kv = jnp.einsum("bsd,dcnh->bscnh", x_BSD, kernel[:, 1:]) + bias[1:]
        return query_BRNH, kv[:, :, 0], kv[:, :, 1]


class Attention(nn.Module):
    """Multi-head self-attention with a mask.

    If it `remembers`, tokens attend to C remembered ones, then to those of the sequence: the variables `key` and
    `value` [B C N H] in the collection `memory`. A mutable collection `new_memory` takes those of the sequence.
    """

    heads: int
    dtype: Any = jnp.float32
    attention: str = "xla"
    remembers: bool = False

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], mask: Bool[Array, "#B S K"], query_slice: slice
    ) -> Float[Array, "B R D"]:
        width = x_BSD.shape[-1]
        query, key, value = QueryKeyValue(self.heads, self.dtype, name="query_key_value")(x_BSD, query_slice)
        if self.remembers:
            key, value = self.with_memory("key", key), self.with_memory("value", value)
        mixed_BRNH = attend(query, key, value, mask=mask[:, query_slice][:, None], attention=self.attention)
        return DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(mixed_BRNH)

    def with_memory(self, name: str, new: Float[Array, "B S N H"]) -> Float[Array, "B K N H"]:
        """The remembered keys or values, then the new ones."""
        if self.is_mutable_collection(NEW_MEMORY) and not self.is_initializing():
            self.put_variable(NEW_MEMORY, name, new)
        if not self.has_variable(MEMORY, name):
            return new
        return jnp.concatenate([self.get_variable(MEMORY, name), new], axis=1)


class Block(nn.Module):
    """Pre-norm transformer block. Outputs are computed only for the R tokens in `query_slice`."""

    heads: int
    mlp_ratio: float
    dtype: Any = jnp.float32
    attention: str = "xla"
    remembers: bool = False  # see `Attention`

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], mask: Bool[Array, "#B S K"], query_slice: slice = ALL_TOKENS
    ) -> Float[Array, "B R D"]:
        width = x_BSD.shape[-1]
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_attention")(x_BSD)
        attention = Attention(self.heads, self.dtype, self.attention, self.remembers, name="attention")
        mixed = attention(normed, mask, query_slice)
        x_BRD = x_BSD[:, query_slice] + mixed
        normed = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(x_BRD)
        return x_BRD + Mlp(int(width * self.mlp_ratio), width, self.dtype, name="mlp")(normed)
