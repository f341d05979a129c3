"""The regression head: position, quaternion and gripper from the policy's output (shapes as in `base`)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.config.heads import RegressionConfig
from instructrl.models.heads.base import CameraParams, PosePrediction, decode_pose, pose_loss, pose_targets
from instructrl.models.layers.transformer import Mlp


class RegressionHead(nn.Module):
    """Regression head of the method: eight numbers from the prediction token alone."""

    config: RegressionConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T E"], patches: Array, cameras: CameraParams) -> PosePrediction:
        del patches, cameras
        out = Mlp(self.config.dim, 8, self.dtype, name="mlp")(hidden).astype(jnp.float32)
        return PosePrediction(out[..., :3], out[..., 3:7], out[..., 7])

    def targets(self, actions: Float[Array, "B T 8"], cameras: CameraParams) -> PosePrediction:
        """The action in the prediction's units."""
        del cameras
        return pose_targets(actions)

    def loss(self, predicted: PosePrediction, targets: PosePrediction) -> Float[Array, "B T"]:
        """Weighted squared errors of position, rotation (up to the quaternion's sign) and gripper."""
        position = jnp.mean((predicted.position - targets.position) ** 2, axis=-1)
        return self.config.position_weight * position + pose_loss(self.config, predicted, targets)

    def decode(self, predicted: PosePrediction, cameras: CameraParams) -> Float[Array, "B T 8"]:
        """The decoded action."""
        del cameras
        return decode_pose(predicted)
