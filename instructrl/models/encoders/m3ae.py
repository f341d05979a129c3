"""M3AE (Geng et al. 2022): image patches and instruction tokens in one transformer.

Parameters have the names and shapes of the published weights. Shape suffixes: B sequences, T steps, K cameras,
M images (all cameras and steps), P patches, L text tokens, S = 1 + P + L tokens, D width, F pooled width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.encoders import M3AEConfig
from instructrl.config.model import pooled_layers
from instructrl.models.layers.attention import attend, pad_to_even
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, identity, run_blocks
from instructrl.models.layers.image_ops import normalize, patchify, resize
from instructrl.models.layers.initializers import normal, xavier_uniform
from instructrl.models.layers.positional import sinusoid, sinusoid_2d
from instructrl.models.layers.transformer import first_token
from instructrl.types import Features

MEAN, STD = M3AEConfig.constants["image_mean"], M3AEConfig.constants["image_std"]
MLP_RATIO = 4
small = normal(0.02)


class Attention(nn.Module):
    """Multi-head self-attention with padding masked out."""

    heads: int
    dtype: Any
    attention: str = "xla"

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"], padding_MS: Float[Array, "M S"]) -> Float[Array, "M S D"]:
        count, length, width = x_MSD.shape
        qkv = nn.Dense(3 * width, kernel_init=xavier_uniform, dtype=self.dtype, name="Dense_0")(x_MSD)
        query, key, value = jnp.moveaxis(qkv.reshape(count, length, 3, self.heads, -1), 2, 0)
        mixed = attend(query, key, value, mask=(padding_MS == 0)[:, None, None], attention=self.attention)
        return nn.Dense(width, kernel_init=xavier_uniform, dtype=self.dtype, name="Dense_1")(mixed.reshape(x_MSD.shape))


class Mlp(nn.Module):
    """Dense, GELU, Dense."""

    dtype: Any

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"]) -> Float[Array, "M S D"]:
        width = x_MSD.shape[-1]
        x = nn.gelu(nn.Dense(MLP_RATIO * width, kernel_init=xavier_uniform, dtype=self.dtype, name="fc1")(x_MSD))
        return nn.Dense(width, kernel_init=xavier_uniform, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Pre-norm transformer block."""

    heads: int
    dtype: Any
    attention: str = "xla"

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"], padding_MS: Float[Array, "M S"]) -> Float[Array, "M S D"]:
        normed = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_0")(x_MSD)
        x_MSD = x_MSD + Attention(self.heads, self.dtype, self.attention, name="Attention_0")(normed, padding_MS)
        normed = nn.LayerNorm(dtype=self.dtype, name="LayerNorm_1")(x_MSD)
        return x_MSD + Mlp(self.dtype, name="TransformerMLP_0")(normed)


class TransformerOutputs(NamedTuple):
    """Outputs of a transformer."""

    blocks: list[Any]  # of every block: M S D, or its readout
    final: Any  # M S D, normalised


class Transformer(nn.Module):
    """A stack of blocks and a final layer norm."""

    depth: int
    heads: int
    dtype: Any
    execution: ExecutionConfig = DEFAULT_EXECUTION

    @nn.compact
    def __call__(
        self, x_MSD: Float[Array, "M S D"], padding_MS: Float[Array, "M S"], readout: Callable[[Any], Any] = identity
    ) -> TransformerOutputs:
        make = partial(Block, self.heads, self.dtype, self.execution.attention)
        names = [f"Block_{index}" for index in range(self.depth)]
        original, (x_MSD, padding_MS) = slice(x_MSD.shape[1]), pad_to_even(x_MSD, padding_MS)

        def unpadded_readout(x_MSD: Array) -> Any:
            return readout(x_MSD[:, original])

        x_MSD, blocks = run_blocks(
            self, make, names, x_MSD, padding_MS, execution=self.execution, readout=unpadded_readout
        )
        return TransformerOutputs(blocks, nn.LayerNorm(dtype=self.dtype, name="LayerNorm_0")(x_MSD[:, original]))


class M3AE(nn.Module):
    """The M3AE encoder; without `config.text` it encodes images only."""

    config: M3AEConfig
    vocabulary_size: int
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    def setup(self) -> None:
        config, width = self.config, (1, 1, self.config.dim)
        self.text_embedding = nn.Embed(self.vocabulary_size, config.dim, embedding_init=normal(1.0), dtype=self.dtype)
        self.image_embedding = nn.Dense(config.dim, kernel_init=xavier_uniform, dtype=self.dtype)
        self.cls_token = self.param("cls_token", small, width)
        self.encoder_image_type_embedding = self.param("encoder_image_type_embedding", small, width)
        if config.text:
            self.encoder_text_type_embedding = self.param("encoder_text_type_embedding", small, width)
        self.encoder = Transformer(config.depth, config.heads, self.dtype, self.execution)

    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        batch, steps, cameras = images.shape[:3]
        image_MPD = self.embed_image(images.reshape(-1, *images.shape[3:]))
        text_MLD, padding_ML = None, None
        if self.config.reads_jointly:
            text_MLD = jnp.repeat(self.embed_text(tokens), steps * cameras, axis=0)
            padding_ML = jnp.repeat(text_padding_mask, steps * cameras, axis=0)
        outputs, padding_MS = self.outputs(image_MPD, text_MLD, padding_ML, pool=True)
        pooled_MF = self.pooled(outputs, padding_MS)
        patches_MPD = outputs.final[:, 1 : 1 + image_MPD.shape[1]]
        views = (batch, steps, cameras)
        return Features(
            pooled=pooled_MF.reshape(*views, -1),
            text=self.encode_text(tokens, text_padding_mask),
            patches=patches_MPD.reshape(*views, *patches_MPD.shape[1:]),
        )

    def encode_text(self, tokens: Int[Array, "B L"], text_padding_mask: Float[Array, "B L"]) -> Float[Array, "B D"]:
        """Features of the instruction alone, the mean of its token embeddings; width 0 without `config.text`.

        A pass of the text alone, which pretraining on pairs never makes, tells a word in a new sentence less well.
        """
        if not self.config.text:
            return jnp.zeros((len(tokens), 0), self.dtype)
        return masked_mean(self.text_embedding(tokens), text_padding_mask)

    def pooled(self, outputs: TransformerOutputs, padding_MS: Float[Array, "M S"]) -> Float[Array, "M F"]:
        """Means over tokens, or class tokens, of the configured layers, concatenated."""
        layers = [*outputs.blocks[:-1], self.readout(padding_MS)(outputs.final)]
        return jnp.concatenate([layers[index] for index in pooled_layers(self.config)], axis=-1)

    def embed_image(self, images: UInt8[Array, "M H W 3"]) -> Float[Array, "M P D"]:
        """Patch embeddings with positions and modality embedding."""
        size, side = self.config.image_size, self.config.patch_size
        x_MPC = patchify(normalize(resize(images, size), MEAN, STD), side).astype(self.dtype)
        position = sinusoid_2d(round(x_MPC.shape[1] ** 0.5), self.config.dim)[None]
        return (self.image_embedding(x_MPC) + position + self.encoder_image_type_embedding).astype(self.dtype)

    def embed_text(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Token embeddings with positions and modality embedding."""
        position = sinusoid(np.arange(tokens.shape[1]), self.config.dim)[None]
        return (self.text_embedding(tokens) + position + self.encoder_text_type_embedding).astype(self.dtype)

    def readout(self, padding_MS: Float[Array, "M S"]) -> Callable[[Any], Any]:
        """The configured pooling of tokens [M, S, D] to [M, D]."""
        return first_token if self.config.pooling == "cls" else partial(masked_mean, padding_MS=padding_MS)

    def outputs(
        self, image_MPD: Array | None, text_MLD: Array | None, text_padding_ML: Array | None, *, pool: bool = False
    ) -> tuple[TransformerOutputs, Float[Array, "M S"]]:
        """Transformer outputs for [cls, image, text] (image or text may be None), and the padding of all tokens.

        With `pool` the blocks' outputs are means over tokens, or class tokens.
        """
        parts = [part for part in (image_MPD, text_MLD) if part is not None]
        count = parts[0].shape[0]
        cls_M1D = jnp.broadcast_to(self.cls_token.astype(self.dtype), (count, 1, self.config.dim))
        unpadded = 1 + (0 if image_MPD is None else image_MPD.shape[1])
        padding = [jnp.zeros((count, unpadded)), *([] if text_padding_ML is None else [text_padding_ML])]
        padding_MS = jnp.concatenate(padding, axis=1)
        readout = self.readout(padding_MS) if pool else identity
        return self.encoder(jnp.concatenate([cls_M1D, *parts], axis=1), padding_MS, readout), padding_MS


def masked_mean(x_MSD: Float[Array, "M S D"], padding_MS: Float[Array, "M S"]) -> Float[Array, "M D"]:
    """Mean over tokens that are not padding; zero if all are."""
    weight_MS = (1 - padding_MS) / jnp.maximum((1 - padding_MS).sum(axis=1, keepdims=True), 1)
    return jnp.einsum("msd,ms->md", x_MSD.astype(jnp.float32), weight_MS).astype(x_MSD.dtype)
