"""CLIP (Radford et al. 2021): an image transformer and a text transformer with a joint embedding space.

Parameters are named as in Hugging Face's flax model. Shape suffixes: B sequences, T steps, K cameras, M images (all
cameras and steps) or texts, S tokens, P patches, L text tokens, D width, V vision and G text feature width.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.encoders import ClipConfig
from instructrl.config.model import pooled_layers, text_layers
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, identity
from instructrl.models.layers.image_ops import normalize, resize
from instructrl.models.layers.transformer import first_token
from instructrl.models.layers.vit import (
    BlockConfig,
    Encoder,
    ImageEmbeddings,
    TextEmbeddings,
    TowerOutputs,
    mean,
    small,
)
from instructrl.types import Features

MLP_RATIO = 4
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # of the logits, before training


class VisionTower(nn.Module):
    """Image transformer: normalised images to tokens; the class token represents the image."""

    config: ClipConfig
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config, epsilon = self.config, self.config.layer_norm_epsilon
        grid = config.image_size // config.patch_size
        self.embeddings = ImageEmbeddings(config.dim, config.patch_size, grid, self.dtype, patch_bias=False)
        self.pre_layrnorm = nn.LayerNorm(epsilon, dtype=self.dtype)  # its published name
        self.encoder = Encoder(config.depth, block_config(config, config.heads, config.dim, self.dtype, self.execution))
        self.post_layernorm = nn.LayerNorm(epsilon, dtype=self.dtype)

    def __call__(self, images: Float[Array, "M H W 3"], readout: Callable[[Any], Any] = identity) -> TowerOutputs:
        last, hidden = self.encoder(self.pre_layrnorm(self.embeddings(images)), None, readout)
        final = self.post_layernorm(last)
        return TowerOutputs(hidden, final, final[:, 0])


class TextTower(nn.Module):
    """Causal text transformer: token ids to contextual tokens; the end-of-text token represents the text."""

    config: ClipConfig
    vocabulary_size: int
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config, width = self.config, self.config.text_dim
        self.embeddings = TextEmbeddings(self.vocabulary_size, config.text_length, width, self.dtype)
        blocks = block_config(config, config.text_heads, width, self.dtype, self.execution)
        self.encoder = Encoder(config.text_depth, blocks)
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
            for index in text_layers(self.config, self.config.text_depth)
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


def block_config(config: ClipConfig, heads: int, width: int, dtype: Any, execution: ExecutionConfig) -> BlockConfig:
    """The blocks of a tower."""
    return BlockConfig(heads, MLP_RATIO * width, config.activation, config.layer_norm_epsilon, dtype, execution)


def take_end_token(x_MLD: Float[Array, "M L D"], tokens: Int[Array, "M L"]) -> Float[Array, "M D"]:
    """Select each text's end-of-text token, which has the largest id of the vocabulary."""
    return jnp.take_along_axis(x_MLD, jnp.argmax(tokens, axis=1)[:, None, None], axis=1)[:, 0]
