"""SigLIP 2 (Tschannen et al. 2025): an image and a text transformer, of which a learnt query pools the image's patches.

Parameters are named as in Hugging Face's flax model of CLIP. Shape suffixes: B sequences, T steps, K cameras, M images
(all cameras and steps) or texts, S tokens, L text tokens, D width, V vision and G text feature width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.encoders import Siglip2Config
from instructrl.config.model import pooled_layers, text_layers
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, identity
from instructrl.models.layers.image_ops import normalize, resize
from instructrl.models.layers.vit import (
    Attention,
    BlockConfig,
    Encoder,
    ImageEmbeddings,
    Mlp,
    TextEmbeddings,
    TowerOutputs,
    mean,
    small,
)
from instructrl.types import Features

PADDING = 0  # of Gemma's vocabulary; read like any other token, as in the training
CONSTANTS = Siglip2Config.constants
EPSILON = CONSTANTS["layer_norm_epsilon"]


class PoolingHead(nn.Module):
    """A learnt query attends to all tokens; a residual MLP follows."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x_MSD: Float[Array, "M S D"]) -> Float[Array, "M D"]:
        config, dtype = self.config, self.config.dtype
        probe = self.param("probe", small, x_MSD.shape[-1:]).astype(dtype)
        query_M1D = jnp.broadcast_to(probe, (len(x_MSD), 1, x_MSD.shape[-1]))
        x = Attention(config.heads, dtype, config.execution.attention, name="attention")(x_MSD, None, query_M1D)
        normed = nn.LayerNorm(config.epsilon, dtype=dtype, name="layernorm")(x)
        return (x + Mlp(config.mlp_dim, config.activation, dtype, name="mlp")(normed))[:, 0]


class VisionTower(nn.Module):
    """Image transformer: normalised images to patches; the head's output represents the image."""

    config: Siglip2Config
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config = self.config
        self.embeddings = ImageEmbeddings(
            config.dim, config.patch_size, config.position_grid, self.dtype, class_token=False
        )
        blocks = BlockConfig(config.heads, config.mlp_dim, CONSTANTS["activation"], EPSILON, self.dtype, self.execution)
        self.encoder = Encoder(config.depth, blocks)
        self.post_layernorm = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.head = PoolingHead(blocks)

    def __call__(self, images: Float[Array, "M H W 3"], readout: Callable[[Any], Any] = identity) -> TowerOutputs:
        last, hidden = self.encoder(self.embeddings(images), None, readout)
        final = self.post_layernorm(last)
        return TowerOutputs(hidden, final, self.head(final))


class TextTower(nn.Module):
    """Text transformer without causal mask; the projected last token, mostly padding, represents the text."""

    config: Siglip2Config
    vocabulary_size: int
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config = self.config
        self.embeddings = TextEmbeddings(self.vocabulary_size, config.text_length, config.text_dim, self.dtype)
        blocks = BlockConfig(
            config.text_heads, config.text_mlp_dim, CONSTANTS["activation"], EPSILON, self.dtype, self.execution
        )
        self.encoder = Encoder(config.text_depth, blocks)
        self.final_layer_norm = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.head = nn.Dense(config.dim, kernel_init=small, dtype=self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "M L"],
        text_padding_mask: Float[Array, "M L"],
        readout: Callable[[Any], Any] = identity,
    ) -> TowerOutputs:
        hidden_words = (text_padding_mask > 0) & (tokens != PADDING)  # dropped in training; padding is read
        last, hidden = self.encoder(self.embeddings(tokens), ~hidden_words[:, None, None], readout)
        final = self.final_layer_norm(last)
        return TowerOutputs(hidden, final, self.head(last_token(final)))


class Siglip2(nn.Module):
    """Image and text towers, without interaction between them.

    A layer's features are the mean over its patches, and its last text token; those of the last layer are the two
    embeddings in the joint space.
    """

    config: Siglip2Config
    vocabulary_size: int
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    def setup(self) -> None:
        config = self.config
        self.vision_model = VisionTower(config, self.dtype, self.execution)
        if config.text:
            self.text_model = TextTower(config, self.vocabulary_size, self.dtype, self.execution)
            # Features do not need scale and bias of the logits; they are published parameters.
            self.logit_scale = self.param("logit_scale", nn.initializers.zeros, (1,))
            self.logit_bias = self.param("logit_bias", nn.initializers.zeros, (1,))

    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        views = images.shape[:3]
        vision = self.encode_images(images.reshape(-1, *images.shape[3:]), mean)
        layers = [*vision.hidden[1:-1], vision.pooled]
        return Features(
            pooled=jnp.concatenate([layers[index] for index in pooled_layers(self.config)], -1).reshape(*views, -1),
            text=self.text_features(tokens, text_padding_mask),
            patches=vision.final.reshape(*views, *vision.final.shape[1:]),
        )

    def text_features(self, tokens: Int[Array, "M L"], text_padding_mask: Float[Array, "M L"]) -> Float[Array, "M G"]:
        """Concatenated features of the text tower's layers at the same relative depths; width 0 without `text`."""
        if not self.config.text:
            return jnp.zeros((len(tokens), 0), self.dtype)
        text = self.text_model(tokens, text_padding_mask, last_token)
        layers = [*text.hidden[1:-1], text.pooled]
        return jnp.concatenate([layers[index] for index in text_layers(self.config, self.config.text_depth)], axis=-1)

    def encode_images(self, images: UInt8[Array, "M H W 3"], readout: Callable[[Any], Any] = identity) -> TowerOutputs:
        """Outputs of the vision tower for raw images."""
        resized = resize(images, self.config.image_size, method="linear")
        pixels = normalize(resized, CONSTANTS["image_mean"], CONSTANTS["image_std"])
        return self.vision_model(pixels.astype(self.dtype), readout)


def last_token(x_MLD: Float[Array, "M L D"]) -> Float[Array, "M D"]:
    """The last token of each text."""
    return x_MLD[:, -1]
