"""Pre-norm transformer towers of published image and text encoders: CLIP, SigLIP 2, DINOv2.

Parameters are named as in Hugging Face's flax model of CLIP. Shape suffixes: M images or texts, S tokens, P patches,
R queries, L text tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from instructrl.models.layers.attention import attend
from instructrl.models.layers.block_stack import ExecutionConfig, run_blocks
from instructrl.models.layers.initializers import normal
from instructrl.models.layers.positional import interpolate_positions

small = normal(0.02)


def quick_gelu(x: Array) -> Array:
    """An approximation of GELU, in the original CLIP."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,
}


@dataclass(frozen=True)
class BlockConfig:
    """Properties that the blocks of a tower share."""

    heads: int
    mlp_dim: int  # hidden width of the MLPs
    activation: str
    epsilon: float  # of layer norms
    dtype: Any
    execution: ExecutionConfig
    layer_scale: bool = False  # a learnt factor for each channel of what attention and MLP add


class TowerOutputs(NamedTuple):
    """Outputs of a tower."""

    hidden: list[Any]  # the embeddings, then the output of every block, M S D each, or their readouts
    final: Any  # M S D, normalised
    pooled: Any  # M D: what represents the image or the text


class Attention(nn.Module):
    """Multi-head attention with a mask: of the tokens to themselves, or of other queries to them."""

    heads: int
    dtype: Any
    attention: str = "xla"

    @nn.compact
    def __call__(
        self,
        x_MSD: Float[Array, "M S D"],
        mask: Bool[Array, "#M 1 #R S"] | None,
        query_MRD: Float[Array, "M R D"] | None = None,
    ) -> Float[Array, "M R D"]:
        asking = x_MSD if query_MRD is None else query_MRD

        def dense(name: str) -> nn.Dense:
            return nn.Dense(x_MSD.shape[-1], kernel_init=small, dtype=self.dtype, name=name)

        def heads(name: str, tokens: Array) -> Array:
            return dense(name)(tokens).reshape(*tokens.shape[:2], self.heads, -1)

        query, key, value = heads("q_proj", asking), heads("k_proj", x_MSD), heads("v_proj", x_MSD)
        mixed = attend(query, key, value, mask=mask, attention=self.attention)
        return dense("out_proj")(mixed.reshape(asking.shape))


class Mlp(nn.Module):
    """Dense, activation, Dense."""

    hidden: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"]) -> Float[Array, "M S D"]:
        x = nn.Dense(self.hidden, kernel_init=small, dtype=self.dtype, name="fc1")(x_MSD)
        x = ACTIVATIONS[self.activation](x)
        return nn.Dense(x_MSD.shape[-1], kernel_init=small, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Pre-norm transformer block."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"], mask: Array | None) -> Float[Array, "M S D"]:
        config, dtype = self.config, self.config.dtype
        normed = nn.LayerNorm(config.epsilon, dtype=dtype, name="layer_norm1")(x_MSD)
        mixed = Attention(config.heads, dtype, config.execution.attention, name="self_attn")(normed, mask)
        x_MSD = x_MSD + self.scaled(mixed, "layer_scale1")
        normed = nn.LayerNorm(config.epsilon, dtype=dtype, name="layer_norm2")(x_MSD)
        return x_MSD + self.scaled(Mlp(config.mlp_dim, config.activation, dtype, name="mlp")(normed), "layer_scale2")

    def scaled(self, x_MSD: Float[Array, "M S D"], name: str) -> Float[Array, "M S D"]:
        """The output of a branch, times its learnt factors if the tower has them."""
        if not self.config.layer_scale:
            return x_MSD
        return x_MSD * self.param(name, nn.initializers.ones, x_MSD.shape[-1:]).astype(x_MSD.dtype)


class Encoder(nn.Module):
    """The block stack of one tower; the blocks are named layers/0, layers/1 and so on."""

    depth: int
    config: BlockConfig

    def setup(self) -> None:
        self.layers = EncoderLayers(self.depth, self.config)

    def __call__(
        self, x_MSD: Float[Array, "M S D"], mask: Array | None, readout: Callable[[Any], Any]
    ) -> tuple[Array, list[Array]]:
        """The output of the last block, and `readout` of the embeddings and of each block's output."""
        return self.layers(x_MSD, mask, readout)


class EncoderLayers(nn.Module):
    """A stack of blocks."""

    depth: int
    config: BlockConfig

    @nn.compact
    def __call__(
        self, x_MSD: Float[Array, "M S D"], mask: Array | None, readout: Callable[[Any], Any]
    ) -> tuple[Array, list[Array]]:
        make = partial(Block, self.config)
        names = [str(index) for index in range(self.depth)]
        last, blocks = run_blocks(self, make, names, x_MSD, mask, execution=self.config.execution, readout=readout)
        return last, [readout(x_MSD), *blocks]


class ImageEmbeddings(nn.Module):
    """Patch embeddings with learnt positions, after a class token and registers where the tower has them.

    Positions are those of a square of `grid` x `grid` patches; images with more or fewer get them interpolated, in
    the way of PyTorch's bicubic interpolation, with or without antialiasing.
    """

    dim: int
    patch_size: int
    grid: int
    dtype: Any
    class_token: bool = True
    registers: int = 0
    patch_bias: bool = True
    antialias: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "M H W 3"]) -> Float[Array, "M S D"]:
        side = (self.patch_size, self.patch_size)
        convolve = nn.Conv(self.dim, side, side, "VALID", use_bias=self.patch_bias, kernel_init=small,
                           dtype=self.dtype, name="patch_embedding")  # fmt: skip
        x_MhwD = convolve(images)
        x_MPD = x_MhwD.reshape(len(images), -1, self.dim)
        count = int(self.class_token)
        table = nn.Embed(count + self.grid**2, self.dim, embedding_init=small, dtype=self.dtype,
                         name="position_embedding")(np.arange(count + self.grid**2))  # fmt: skip
        x_MPD += interpolate_positions(table[count:], (x_MhwD.shape[1], x_MhwD.shape[2]), antialias=self.antialias)
        first = []
        if self.class_token:
            first.append(self.param("class_embedding", small, (self.dim,)).astype(self.dtype)[None] + table[:1])
        if self.registers:
            first.append(self.param("register_embedding", small, (self.registers, self.dim)).astype(self.dtype))
        repeated = [jnp.broadcast_to(tokens, (len(images), *tokens.shape)) for tokens in first]
        return jnp.concatenate([*repeated, x_MPD], axis=1)


class TextEmbeddings(nn.Module):
    """Token embeddings with learnt positions."""

    vocabulary_size: int
    length: int
    dim: int
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Int[Array, "M L"]) -> Float[Array, "M L D"]:
        words = nn.Embed(self.vocabulary_size, self.dim, embedding_init=small, dtype=self.dtype, name="token_embedding")
        position = nn.Embed(self.length, self.dim, embedding_init=small, dtype=self.dtype, name="position_embedding")
        return words(tokens) + position(jnp.arange(tokens.shape[1]))[None]


def mean(x_MSD: Float[Array, "M S D"]) -> Float[Array, "M D"]:
    """Mean over tokens."""
    return x_MSD.astype(jnp.float32).mean(axis=1).astype(x_MSD.dtype)
