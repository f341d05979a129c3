"""The discrete head: a distribution over bins per axis of position and rotation.

Shapes as in `base`; N position bins, M rotation bins.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.config.heads import DiscreteConfig
from instructrl.models.heads.base import CameraParams, flag_loss, join_action
from instructrl.models.heads.bins import expected_near_peak, gaussian_bins, soft_cross_entropy
from instructrl.models.heads.rotation import BinnedRotation
from instructrl.models.heads.slots import read_with_slots, slot_loss, slot_targets
from instructrl.models.layers.transformer import Mlp
from instructrl.workspace import Workspace


class Bins(NamedTuple):
    """An action's bins: logits of a prediction, shares of a target."""

    position: Any  # B T 3 N
    rotation: Any  # B T 3 M, of Euler angles; a prediction is flat
    gripper: Any  # B T, a prediction is the logit of open
    scores: Any  # B T K P+1, of the first slot; of a target: shares; None without slots


class DiscreteHead(nn.Module):
    """Discrete head of the method: for every axis the probabilities of its bins.

    Targets are Gaussians over the bins: neighbours of the right bin are nearly right, and a value between two bins can
    be decoded from both.
    """

    config: DiscreteConfig
    workspace: Workspace
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T E"], patches: Array, cameras: CameraParams) -> Bins:
        del cameras
        inputs, scores = read_with_slots(self.config, hidden, patches, self.dtype)
        positions = 3 * self.config.position_bins
        out = Mlp(self.config.dim, positions + self.rotation.size + 1, self.dtype, name="mlp")(inputs)
        out = out.astype(jnp.float32)
        position = out[..., :positions].reshape(*hidden.shape[:-1], 3, -1)
        return Bins(position, out[..., positions:-1], out[..., -1], scores)

    def targets(self, actions: Float[Array, "B T 8"], cameras: CameraParams) -> Bins:
        """Shares of the bins around the action's values."""
        config = self.config
        shares = slot_targets(config, actions, cameras)
        values = self.workspace.to_bins(actions[..., :3], config.position_bins)
        position = gaussian_bins(values, config.position_bins, sigma=config.position_sigma)
        return Bins(position, self.rotation.targets(actions[..., 3:7]), actions[..., 7], shares)

    def loss(self, predicted: Bins, targets: Bins) -> Float[Array, "B T"]:
        """Weighted cross-entropies of position and rotation (each averaged over its axes) and of the gripper."""
        config = self.config
        position = jnp.mean(soft_cross_entropy(predicted.position, targets.position), axis=-1)
        rotation = self.rotation.loss(predicted.rotation, targets.rotation)
        gripper = flag_loss(predicted.gripper, targets.gripper)
        loss = config.position_weight * position + config.rotation_weight * rotation + config.gripper_weight * gripper
        return loss + slot_loss(config, predicted.scores, targets.scores)

    def decode(self, predicted: Bins, cameras: CameraParams) -> Float[Array, "B T 8"]:
        """The action at the values that are expected around the most likely bins."""
        del cameras
        values = expected_near_peak(predicted.position, sigma=self.config.position_sigma)
        position = self.workspace.from_bins(values, self.config.position_bins)
        return join_action(position, self.rotation.decode(predicted.rotation), predicted.gripper, self.workspace)

    @property
    def rotation(self) -> BinnedRotation:
        """The rotation's bins."""
        return BinnedRotation(self.config.rotation_bins, self.config.rotation_sigma)
