"""The chunk head: the next dense actions at once, by regression (Zhao et al. 2023, "action chunking", without its VAE).

Shapes as in `base`; C actions of a chunk.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.config.heads import ChunkConfig
from instructrl.models.heads.base import CameraParams, PosePrediction, decode_pose, pose_targets
from instructrl.models.heads.regression import SlotPose, squared_errors
from instructrl.models.heads.slots import read_with_slots, slot_loss, slot_targets
from instructrl.models.layers.transformer import Mlp
from instructrl.workspace import Workspace


class ChunkHead(nn.Module):
    """Eight numbers for each action of a chunk, from the prediction token and what its slots read."""

    config: ChunkConfig
    workspace: Workspace
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T E"], patches: Array, cameras: CameraParams) -> SlotPose:
        del cameras
        inputs, scores = read_with_slots(self.config, hidden, patches, self.dtype)
        out = Mlp(self.config.dim, 8 * self.config.chunk, self.dtype, name="mlp")(inputs).astype(jnp.float32)
        out = out.reshape(*out.shape[:-1], self.config.chunk, 8)
        return SlotPose(PosePrediction(out[..., :3], out[..., 3:7], out[..., 7]), scores)

    def targets(self, actions: Float[Array, "B T C 8"], cameras: CameraParams) -> SlotPose:
        """The actions in the prediction's units; the first slot attends to where the chunk ends."""
        scores = slot_targets(self.config, actions[..., -1, :], cameras)
        return SlotPose(pose_targets(actions, self.workspace), scores)

    def loss(self, predicted: SlotPose, targets: SlotPose) -> Float[Array, "B T C"]:
        """Weighted squared errors of position, rotation (up to the quaternion's sign) and gripper."""
        loss = squared_errors(self.config, predicted.pose, targets.pose)
        return loss + jnp.expand_dims(slot_loss(self.config, predicted.scores, targets.scores), -1)

    def decode(self, predicted: SlotPose, cameras: CameraParams) -> Float[Array, "B T C 8"]:
        """The decoded actions."""
        del cameras
        return decode_pose(predicted.pose, self.workspace)
