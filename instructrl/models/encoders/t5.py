"""T5's encoder (Raffel et al. 2020): a text transformer with relative positions, RMS norms and no biases.

Parameters are named as in the other text towers. Shape suffixes: B sequences, T steps, K cameras, M texts, L and S text
tokens (queries and keys), N heads, D width, V vision and G text feature width.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.encoders import T5Config
from instructrl.config.model import pooled_layers
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, identity, run_blocks
from instructrl.models.layers.vit import TowerOutputs, small
from instructrl.types import Features

EPSILON = T5Config.constants["layer_norm_epsilon"]
BUCKETS, FARTHEST = 32, 128  # groups of distances between words, and the distance from which on all are in one group


class Attention(nn.Module):
    """Multi-head attention whose scores are not divided by a root of the heads' width, and get a bias."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x_MLD: Float[Array, "M L D"], bias: Float[Array, "M N L S"]) -> Float[Array, "M L D"]:
        def dense(name: str) -> nn.Dense:
            return nn.Dense(x_MLD.shape[-1], use_bias=False, kernel_init=small, dtype=self.dtype, name=name)

        query, key, value = (
            dense(name)(x_MLD).reshape(*x_MLD.shape[:2], self.heads, -1) for name in ("q_proj", "k_proj", "v_proj")
        )
        scores = jnp.einsum("mlnh,msnh->mnls", query, key, preferred_element_type=jnp.float32) + bias
        mixed = jnp.einsum("mnls,msnh->mlnh", jax.nn.softmax(scores).astype(self.dtype), value)
        return dense("out_proj")(mixed.reshape(x_MLD.shape))


class Mlp(nn.Module):
    """Dense, ReLU, Dense; or gated: the first is multiplied by the GELU of another one."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, x_MLD: Float[Array, "M L D"]) -> Float[Array, "M L D"]:
        dense = partial(nn.Dense, use_bias=False, kernel_init=small, dtype=self.dtype)
        x = dense(self.config.mlp_dim, name="fc1")(x_MLD)
        gated = self.config.activation == "gated_gelu"
        x = x * nn.gelu(dense(self.config.mlp_dim, name="gate")(x_MLD)) if gated else nn.relu(x)
        return dense(x_MLD.shape[-1], name="fc2")(x)


class Block(nn.Module):
    """Pre-norm transformer block."""

    config: T5Config
    dtype: Any

    @nn.compact
    def __call__(self, x_MLD: Float[Array, "M L D"], bias: Float[Array, "M N L S"]) -> Float[Array, "M L D"]:
        normed = nn.RMSNorm(EPSILON, dtype=self.dtype, name="layer_norm1")(x_MLD)
        x_MLD = x_MLD + Attention(self.config.heads, self.dtype, name="self_attn")(normed, bias)
        normed = nn.RMSNorm(EPSILON, dtype=self.dtype, name="layer_norm2")(x_MLD)
        return x_MLD + Mlp(self.config, self.dtype, name="mlp")(normed)


class Layers(nn.Module):
    """A stack of blocks."""

    config: T5Config
    dtype: Any
    execution: ExecutionConfig

    @nn.compact
    def __call__(
        self, x_MLD: Float[Array, "M L D"], bias: Float[Array, "M N L S"], readout: Callable[[Any], Any]
    ) -> tuple[Array, list[Array]]:
        make, names = partial(Block, self.config, self.dtype), [str(index) for index in range(self.config.depth)]
        last, blocks = run_blocks(self, make, names, x_MLD, bias, execution=self.execution, readout=readout)
        return last, [readout(x_MLD), *blocks]


class Encoder(nn.Module):
    """The block stack, whose blocks share the bias of relative positions; named layers/0, layers/1 and so on."""

    config: T5Config
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        self.relative_attention_bias = nn.Embed(BUCKETS, self.config.heads, embedding_init=small)
        self.layers = Layers(self.config, self.dtype, self.execution)

    def __call__(
        self, x_MLD: Float[Array, "M L D"], text_padding_mask: Float[Array, "M L"], readout: Callable[[Any], Any]
    ) -> tuple[Array, list[Array]]:
        """The output of the last block, and `readout` of the embeddings and of each block's output."""
        bias_LSN = self.relative_attention_bias(distance_buckets(x_MLD.shape[1]))
        hidden = jnp.where(text_padding_mask > 0, jnp.finfo(jnp.float32).min, 0.0)[:, None, None]
        return self.layers(x_MLD, bias_LSN.astype(jnp.float32).transpose(2, 0, 1)[None] + hidden, readout)


class Embeddings(nn.Module):
    """Token embeddings; positions are in the attention."""

    rows: int
    dim: int
    dtype: Any

    def setup(self) -> None:
        self.token_embedding = nn.Embed(self.rows, self.dim, embedding_init=small, dtype=self.dtype)

    def __call__(self, tokens: Int[Array, "M L"]) -> Float[Array, "M L D"]:
        return self.token_embedding(tokens)


class TextTower(nn.Module):
    """Text transformer without causal mask; the mean of a text's tokens represents it."""

    config: T5Config
    vocabulary_size: int
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config = self.config
        self.embeddings = Embeddings(config.table_rows(self.vocabulary_size), config.dim, self.dtype)
        self.encoder = Encoder(config, self.dtype, self.execution)
        self.final_layer_norm = nn.RMSNorm(EPSILON, dtype=self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "M L"],
        text_padding_mask: Float[Array, "M L"],
        readout: Callable[[Any], Any] = identity,
    ) -> TowerOutputs:
        last, hidden = self.encoder(self.embeddings(tokens), text_padding_mask, readout)
        final = self.final_layer_norm(last)
        return TowerOutputs(hidden, final, mean_of_tokens(final, text_padding_mask))


class T5(nn.Module):
    """The text tower of an encoder pair, see pair.py: of images it has no features.

    A layer's features are the mean of its text tokens, those of the last layer after the norm.
    """

    config: T5Config
    vocabulary_size: int
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    def setup(self) -> None:
        self.text_model = TextTower(self.config, self.vocabulary_size, self.dtype, self.execution)

    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        none = jnp.zeros((*images.shape[:3], 0), self.dtype)
        return Features(none, self.text_features(tokens, text_padding_mask), none[..., None])

    def text_features(self, tokens: Int[Array, "M L"], text_padding_mask: Float[Array, "M L"]) -> Float[Array, "M G"]:
        """Concatenated features of the chosen layers."""
        text = self.text_model(tokens, text_padding_mask, partial(mean_of_tokens, padding=text_padding_mask))
        layers = [*text.hidden[1:-1], text.pooled]
        return jnp.concatenate([layers[index] for index in pooled_layers(self.config)], axis=-1)


def distance_buckets(length: int) -> np.ndarray:
    """Buckets of the distances from each token to each other one, int [L, S] (Raffel et al. 2020, section 2.1).

    Half of them are of tokens behind, half of tokens ahead. Half of these are a single distance each, the others grow
    with its logarithm.
    """
    half, single = BUCKETS // 2, BUCKETS // 4
    ahead = np.arange(length)[None] - np.arange(length)[:, None]
    distance = abs(ahead)
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / single) / np.float32(math.log(FARTHEST / single))
    grown = single + (growth * (half - single)).astype(np.int64)
    return np.where(ahead > 0, half, 0) + np.where(distance < single, distance, np.minimum(grown, half - 1))


def mean_of_tokens(x_MLD: Float[Array, "M L D"], padding: Float[Array, "M L"]) -> Float[Array, "M D"]:
    """Mean over the tokens of each text that are not padding."""
    weight = (padding == 0)[..., None].astype(jnp.float32)
    total = (x_MLD.astype(jnp.float32) * weight).sum(axis=1)
    return (total / jnp.maximum(weight.sum(axis=1), 1)).astype(x_MLD.dtype)
