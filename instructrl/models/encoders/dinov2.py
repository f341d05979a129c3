"""DINOv2 (Oquab et al. 2023): an image transformer trained without text, also with registers (Darcet et al. 2023).

Parameters are named as in the other image towers (layers/vit.py). Shape suffixes: B sequences, T steps, K cameras,
M images (all cameras and steps), S tokens, D width, L text tokens.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from instructrl.config.encoders import Dinov2Config
from instructrl.config.model import pooled_layers
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, identity
from instructrl.models.layers.image_ops import normalize, resize
from instructrl.models.layers.transformer import first_token
from instructrl.models.layers.vit import BlockConfig, Encoder, ImageEmbeddings, TowerOutputs, mean
from instructrl.types import Features

MLP_RATIO = 4


class VisionTower(nn.Module):
    """Image transformer: normalised images to tokens, in the order class token, registers, patches."""

    config: Dinov2Config
    dtype: Any
    execution: ExecutionConfig

    def setup(self) -> None:
        config, epsilon = self.config, self.config.constants["layer_norm_epsilon"]
        self.embeddings = ImageEmbeddings(
            config.dim, config.patch_size, config.position_grid, self.dtype,
            registers=config.registers, antialias=config.registers > 0,  # as in the training of either
        )  # fmt: skip
        width, activation = MLP_RATIO * config.dim, config.constants["activation"]
        blocks = BlockConfig(config.heads, width, activation, epsilon, self.dtype, self.execution, layer_scale=True)
        self.encoder = Encoder(config.depth, blocks)
        self.post_layernorm = nn.LayerNorm(epsilon, dtype=self.dtype)

    def __call__(self, images: Float[Array, "M H W 3"], readout: Callable[[Any], Any] = identity) -> TowerOutputs:
        last, hidden = self.encoder(self.embeddings(images), None, readout)
        final = self.post_layernorm(last)
        return TowerOutputs(hidden, final, final[:, 0])


class Dinov2(nn.Module):
    """The image tower alone. A layer's features are its class token, or the mean over class token and patches."""

    config: Dinov2Config
    vocabulary_size: int
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    def setup(self) -> None:
        self.vision_model = VisionTower(self.config, self.dtype, self.execution)

    def __call__(
        self,
        images: UInt8[Array, "B T K H W 3"],
        tokens: Int[Array, "B L"],
        text_padding_mask: Float[Array, "B L"],
    ) -> Features:
        views = images.shape[:3]
        vision = self.encode_images(images.reshape(-1, *images.shape[3:]), self.readout)
        layers = [*vision.hidden[1:-1], self.readout(vision.final)]
        patches = vision.final[:, 1 + self.config.registers :]
        return Features(
            pooled=jnp.concatenate([layers[index] for index in pooled_layers(self.config)], -1).reshape(*views, -1),
            text=jnp.zeros((len(tokens), 0), self.dtype),
            patches=patches.reshape(*views, *patches.shape[1:]),
        )

    def encode_images(self, images: UInt8[Array, "M H W 3"], readout: Callable[[Any], Any] = identity) -> TowerOutputs:
        """Outputs of the tower for raw images."""
        config = self.config
        pixels = normalize(resize(images, config.image_size), config.image_mean, config.image_std)
        return self.vision_model(pixels.astype(self.dtype), readout)

    def readout(self, x_MSD: Float[Array, "M S D"]) -> Float[Array, "M D"]:
        """The configured pooling of a layer's tokens; registers, which say nothing of a place, are left out."""
        if self.config.pooling == "cls":
            return first_token(x_MSD)
        return mean(jnp.concatenate([x_MSD[:, :1], x_MSD[:, 1 + self.config.registers :]], axis=1))
