"""The discrete head: a distribution over bins per axis of position and rotation.

Shapes as in `base`; N position bins, M rotation bins.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from instructrl.actions import (
    discretize,
    undiscretize,
)
from instructrl.config.heads import DiscreteConfig
from instructrl.models.heads.base import CameraParams, cross_entropy
from instructrl.models.layers.transformer import Mlp


class BinLogits(NamedTuple):
    """Logits of an action's bins."""

    position: Any  # B T 3 N
    rotation: Any  # B T 3 M, of Euler angles
    gripper: Any  # B T 2, closed and open


class DiscreteHead(nn.Module):
    """Discrete head of the method: for every axis the probabilities of its bins, from the prediction token alone."""

    config: DiscreteConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T E"], patches: Array, cameras: CameraParams) -> BinLogits:
        del patches, cameras
        positions, angles = 3 * self.config.position_bins, 3 * self.config.rotation_bins
        out = Mlp(self.config.dim, positions + angles + 2, self.dtype, name="mlp")(hidden).astype(jnp.float32)
        position, rotation, gripper = jnp.split(out, [positions, positions + angles], axis=-1)
        batch = hidden.shape[:-1]
        return BinLogits(position.reshape(*batch, 3, -1), rotation.reshape(*batch, 3, -1), gripper)

    def targets(self, actions: Float[Array, "B T 8"], cameras: CameraParams) -> Int[Array, "B T 7"]:
        """The action's bins."""
        del cameras
        return discretize(actions, position_bins=self.config.position_bins, rotation_bins=self.config.rotation_bins)

    def loss(self, predicted: BinLogits, targets: Int[Array, "B T 7"]) -> Float[Array, "B T"]:
        """Weighted cross-entropies of position and rotation (each averaged over its axes) and of the gripper."""
        config = self.config
        position = jnp.mean(cross_entropy(predicted.position, targets[..., :3]), axis=-1)
        rotation = jnp.mean(cross_entropy(predicted.rotation, targets[..., 3:6]), axis=-1)
        gripper = cross_entropy(predicted.gripper, targets[..., 6])
        return config.position_weight * position + config.rotation_weight * rotation + config.gripper_weight * gripper

    def decode(self, predicted: BinLogits, cameras: CameraParams) -> Float[Array, "B T 8"]:
        """The action at the centres of the most likely bins."""
        del cameras
        position, rotation, gripper = (jnp.argmax(logits, axis=-1) for logits in predicted)
        bins = jnp.concatenate([position, rotation, gripper[..., None]], axis=-1)
        return undiscretize(bins, position_bins=self.config.position_bins, rotation_bins=self.config.rotation_bins)
