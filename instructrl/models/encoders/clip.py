"""CLIP (Radford et al. 2021): an image transformer and a text transformer with a joint embedding space.

Parameters are named as in Hugging Face's flax model. Shape suffixes: B sequences, T steps, K cameras, M images (all
cameras and steps) or texts, S tokens, P patches, L text tokens, D width, V vision and G text feature width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from instructrl.config.encoders import ClipConfig
from instructrl.config.model import pooled_layers
from instructrl.models.layers.attention import attend
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, identity, run_blocks
from instructrl.models.layers.image_ops import normalize, resize
from instructrl.models.layers.transformer import first_token
from instructrl.types import Features

MLP_RATIO = 4
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # of the logits, before training
small = nn.initializers.normal(0.02)


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
    """Properties that the blocks of both towers share."""

    activation: str
    epsilon: float  # of layer norms
    dtype: Any
    execution: ExecutionConfig


class Attention(nn.Module):
    """Multi-head self-attention with a mask."""

    heads: int
    dtype: Any
    attention: str = "xla"

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"], mask: Bool[Array, "*M 1 S S"] | None) -> Float[Array, "M S D"]:
        def dense(name: str) -> nn.Dense:
            return nn.Dense(x_MSD.shape[-1], kernel_init=small, dtype=self.dtype, name=name)

        shape = (*x_MSD.shape[:2], self.heads, -1)
        query, key, value = (dense(name)(x_MSD).reshape(shape) for name in ("q_proj", "k_proj", "v_proj"))
        mixed = attend(query, key, value, mask=mask, attention=self.attention)
        return dense("out_proj")(mixed.reshape(x_MSD.shape))


class Mlp(nn.Module):
    """Dense, activation, Dense."""

    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"]) -> Float[Array, "M S D"]:
        width = x_MSD.shape[-1]
        x = nn.Dense(MLP_RATIO * width, kernel_init=small, dtype=self.dtype, name="fc1")(x_MSD)
        x = ACTIVATIONS[self.activation](x)
        return nn.Dense(width, kernel_init=small, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Pre-norm transformer block."""

    heads: int
    config: BlockConfig

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"], mask: Array | None) -> Float[Array, "M S D"]:
        config, dtype = self.config, self.config.dtype
        normed = nn.LayerNorm(config.epsilon, dtype=dtype, name="layer_norm1")(x_MSD)
        x_MSD = x_MSD + Attention(self.heads, dtype, config.execution.attention, name="self_attn")(normed, mask)
        normed = nn.LayerNorm(config.epsilon, dtype=dtype, name="layer_norm2")(x_MSD)
        return x_MSD + Mlp(config.activation, dtype, name="mlp")(normed)


class Encoder(nn.Module):
    """The block stack of one tower; the blocks are named layers/0, layers/1 and so on."""

    depth: int
    heads: int
    config: BlockConfig

    def setup(self) -> None:
        self.layers = EncoderLayers(self.depth, self.heads, self.config)

    def __call__(
        self, x_MSD: Float[Array, "M S D"], mask: Array | None, readout: Callable[[Any], Any]
    ) -> tuple[Array, list[Array]]:
        """The output of the last block, and `readout` of the embeddings and of each block's output."""
        return self.layers(x_MSD, mask, readout)


class EncoderLayers(nn.Module):
    """A stack of blocks."""

    depth: int
    heads: int
    config: BlockConfig

    @nn.compact
    def __call__(
        self, x_MSD: Float[Array, "M S D"], mask: Array | None, readout: Callable[[Any], Any]
    ) -> tuple[Array, list[Array]]:
        make = partial(Block, self.heads, self.config)
        names = [str(index) for index in range(self.depth)]
        last, blocks = run_blocks(self, make, names, x_MSD, mask, execution=self.config.execution, readout=readout)
        return last, [readout(x_MSD), *blocks]


class TowerOutputs(NamedTuple):
    """Outputs of a tower."""

    hidden: list[Any]  # the embeddings, then the output of every block, M S D each, or their readouts
    final: Any  # M S D, normalised
    pooled: Any  # M D: the normalised output at the class or end-of-text token


class ImageEmbeddings(nn.Module):
    """Class token and patch embeddings with learnt positions."""

    dim: int
    patch_size: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "M H W 3"]) -> Float[Array, "M S D"]:
        side = (self.patch_size, self.patch_size)
        convolve = nn.Conv(self.dim, side, side, "VALID", use_bias=False, kernel_init=small, dtype=self.dtype,
                           name="patch_embedding")  # fmt: skip
        x_MPD = convolve(images).reshape(len(images), -1, self.dim)
        first = self.param("class_embedding", small, (self.dim,)).astype(self.dtype)
        x_MSD = jnp.concatenate([jnp.broadcast_to(first, (len(images), 1, self.dim)), x_MPD], axis=1)
        position = nn.Embed(x_MSD.shape[1], self.dim, embedding_init=small, dtype=self.dtype, name="position_embedding")
        return x_MSD + position(jnp.arange(x_MSD.shape[1]))[None]


class VisionTower(nn.Module):
    """Image transformer: normalised images to tokens; the class token represents the image."""

    config: ClipConfig
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config, epsilon = self.config, self.config.layer_norm_epsilon
        self.embeddings = ImageEmbeddings(config.dim, config.patch_size, self.dtype)
        self.pre_layrnorm = nn.LayerNorm(epsilon, dtype=self.dtype)  # its published name
        blocks = BlockConfig(config.activation, epsilon, self.dtype, self.execution)
        self.encoder = Encoder(config.depth, config.heads, blocks)
        self.post_layernorm = nn.LayerNorm(epsilon, dtype=self.dtype)

    def __call__(self, images: Float[Array, "M H W 3"], readout: Callable[[Any], Any] = identity) -> TowerOutputs:
        last, hidden = self.encoder(self.pre_layrnorm(self.embeddings(images)), None, readout)
        final = self.post_layernorm(last)
        return TowerOutputs(hidden, final, final[:, 0])


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


class TextTower(nn.Module):
    """Causal text transformer: token ids to contextual tokens; the end-of-text token represents the text."""

    config: ClipConfig
    vocabulary_size: int
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config, width = self.config, self.config.text_dim
        self.embeddings = TextEmbeddings(self.vocabulary_size, config.text_length, width, self.dtype)
        blocks = BlockConfig(config.activation, config.layer_norm_epsilon, self.dtype, self.execution)
        self.encoder = Encoder(config.text_depth, config.text_heads, blocks)
        self.final_layer_norm = nn.LayerNorm(config.layer_norm_epsilon, dtype=self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "M L"],
        text_padding_mask: Float[Array, "M L"],
        readout: Callable[[Any], Any] = identity,
    ) -> TowerOutputs:
        length = tokens.shape[1]
        itself = jnp.eye(length, dtype=bool)[None]
        before = jnp.asarray(np.tri(length, dtype=bool))[None] & (text_padding_mask == 0)[:, None]
        last, hidden = self.encoder(self.embeddings(tokens), (before | itself)[:, None], readout)
        final = self.final_layer_norm(last)
        return TowerOutputs(hidden, final, take_end_token(final, tokens))


class Clip(nn.Module):
    """Image and text towers, without interaction between them.

    A layer's features are the mean over its image tokens, or its class token, and its end-of-text token; those of the
    last layer are the projections into the joint embedding space.
    """

    config: ClipConfig
    vocabulary_size: int
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    def setup(self) -> None:
        config = self.config
        self.vision_model = VisionTower(config, self.dtype, self.execution)
        self.visual_projection = nn.Dense(config.projection, use_bias=False, kernel_init=small, dtype=self.dtype)
        if config.text:
            self.text_model = TextTower(config, self.vocabulary_size, self.dtype, self.execution)
            self.text_projection = nn.Dense(config.projection, use_bias=False, kernel_init=small, dtype=self.dtype)
            # Features do not need the scale of CLIP's logits; it is one of the published parameters.
            self.logit_scale = self.param("logit_scale", nn.initializers.constant(INITIAL_LOGIT_SCALE), ())

    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        views = images.shape[:3]
        readout = first_token if self.config.pooling == "cls" else mean
        vision = self.encode_images(images.reshape(-1, *images.shape[3:]), readout)
        patches = vision.final[:, 1:]
        return Features(
            pooled=self.image_features(vision).reshape(*views, -1),
            text=self.text_features(tokens, text_padding_mask),
            patches=patches.reshape(*views, *patches.shape[1:]),
        )

    def image_features(self, vision: TowerOutputs) -> Float[Array, "M V"]:
        """Concatenated features of the chosen layers."""
        last = self.config.depth - 1
        features = [
            self.visual_projection(vision.pooled) if index == last else vision.hidden[index + 1]
            for index in pooled_layers(self.config)
        ]
        return jnp.concatenate(features, axis=-1)

    def text_features(self, tokens: Int[Array, "M L"], text_padding_mask: Float[Array, "M L"]) -> Float[Array, "M G"]:
        """Concatenated features of the text tower's layers at the same relative depths; width 0 without `text`."""
        if not self.config.text:
            return jnp.zeros((len(tokens), 0), self.dtype)
        text = self.text_model(tokens, text_padding_mask, partial(take_end_token, tokens=tokens))
        last = self.config.text_depth
        features = [
            self.text_projection(text.pooled) if index + 1 == last else text.hidden[index + 1]
            for index in text_layers(self.config)
        ]
        return jnp.concatenate(features, axis=-1)

    def encode_images(self, images: UInt8[Array, "M H W 3"], readout: Callable[[Any], Any] = identity) -> TowerOutputs:
        """Outputs of the vision tower for raw images."""
        config = self.config
        pixels = normalize(resize(images, config.image_size), config.image_mean, config.image_std)
        return self.vision_model(pixels.astype(self.dtype), readout)

    def embed_pairs(
        self, images: UInt8[Array, "M H W 3"], tokens: Int[Array, "M L"], text_padding_mask: Float[Array, "M L"]
    ) -> tuple[Float[Array, "M V"], Float[Array, "M V"]]:
        """Embeddings of images and texts in the joint space, not normalised."""
        text = self.text_model(tokens, text_padding_mask)
        return self.visual_projection(self.encode_images(images).pooled), self.text_projection(text.pooled)


def text_layers(config: ClipConfig) -> tuple[int, ...]:
    """Indices of the text tower's layers at the relative depths of the chosen vision layers, without duplicates."""
    share = config.text_depth / config.depth
    return tuple(dict.fromkeys(math.ceil((index + 1) * share) - 1 for index in pooled_layers(config)))


def mean(x_MSD: Float[Array, "M S D"]) -> Float[Array, "M D"]:
    """Mean over tokens."""
    return x_MSD.astype(jnp.float32).mean(axis=1).astype(x_MSD.dtype)


def take_end_token(x_MLD: Float[Array, "M L D"], tokens: Int[Array, "M L"]) -> Float[Array, "M D"]:
    """Select each text's end-of-text token, which has the largest id of the vocabulary."""
    return jnp.take_along_axis(x_MLD, jnp.argmax(tokens, axis=1)[:, None, None], axis=1)[:, 0]
