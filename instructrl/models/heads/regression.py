"""The regression head: position, quaternion and gripper from the policy's output (shapes as in `base`)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.config.heads import ChunkConfig, RegressionConfig
from instructrl.models.heads.base import (
    CameraParams,
    PosePrediction,
    decode_pose,
    pose_loss,
    pose_targets,
)
from instructrl.models.heads.slots import read_with_slots, slot_loss, slot_targets
from instructrl.models.layers.transformer import Mlp
from instructrl.workspace import Workspace


class SlotPose(NamedTuple):
    """A pose, and where the first slot attends; predicted, or as a target."""

    pose: PosePrediction
    scores: Any  # B T K P+1, logits over patches, of a target: shares; None if the slots are not supervised


def squared_errors(
    config: RegressionConfig | ChunkConfig, predicted: PosePrediction, targets: PosePrediction
) -> Float[Array, "*shape"]:
    """Weighted squared errors of position, rotation (up to the quaternion's sign) and gripper."""
    position = jnp.mean((predicted.position - targets.position) ** 2, axis=-1)
    return config.position_weight * position + pose_loss(config, predicted, targets)


class RegressionHead(nn.Module):
    """Regression head of the method: eight numbers from the prediction token and what its slots read."""

    config: RegressionConfig
    workspace: Workspace
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T E"], patches: Array, cameras: CameraParams) -> SlotPose:
        del cameras
        inputs, scores = read_with_slots(self.config, hidden, patches, self.dtype)
        out = Mlp(self.config.dim, 8, self.dtype, name="mlp")(inputs).astype(jnp.float32)
        return SlotPose(PosePrediction(out[..., :3], out[..., 3:7], out[..., 7]), scores)

    def targets(self, actions: Float[Array, "B T 8"], cameras: CameraParams) -> SlotPose:
        """The action in the prediction's units."""
        return SlotPose(pose_targets(actions, self.workspace), slot_targets(self.config, actions, cameras))

    def loss(self, predicted: SlotPose, targets: SlotPose) -> Float[Array, "B T"]:
        """Weighted squared errors of position, rotation (up to the quaternion's sign) and gripper."""
        loss = squared_errors(self.config, predicted.pose, targets.pose)
        return loss + slot_loss(self.config, predicted.scores, targets.scores)

    def decode(self, predicted: SlotPose, cameras: CameraParams) -> Float[Array, "B T 8"]:
        """The decoded action."""
        del cameras
        return decode_pose(predicted.pose, self.workspace)
