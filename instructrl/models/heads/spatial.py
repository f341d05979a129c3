"""The spatial head: heatmaps over the patches of every camera, lifted to the most likely 3-D point.

Shapes as in `base`; P patches, D patch width, E policy width.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.config.heads import SpatialConfig
from instructrl.models.heads.base import CameraParams, flag_loss, join_action
from instructrl.models.heads.heatmap import heatmap_loss, heatmap_targets
from instructrl.models.heads.rotation import BinnedRotation
from instructrl.models.heads.triangulation import nearest_candidate, triangulate
from instructrl.models.layers.initializers import Dense
from instructrl.models.layers.transformer import Mlp
from instructrl.models.patch_reader import PatchReader
from instructrl.workspace import Workspace


class Heatmaps(NamedTuple):
    """The action's point in every camera, its rotation and gripper; predicted, or as a target."""

    scores: Any  # B T K P+1, logits over patches, of a target: shares; the last one means out of view
    offsets: Any  # B T K P 2, from a patch's centre to the point, in patches
    rotation: Any  # B T 3 M, shares of the bins of Euler angles; a prediction: logits, flat
    gripper: Any  # B T, a prediction is the logit of open


class SpatialHead(nn.Module):
    """Spatial head: a heatmap over each camera's patches, whose peaks are triangulated to a 3D point.

    Rotation and gripper are predicted from what the heatmaps attend to.
    """

    config: SpatialConfig
    workspace: Workspace
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B T E"], patches: Float[Array, "B T K P D"], cameras: CameraParams
    ) -> Heatmaps:
        del cameras
        reading = PatchReader(1, self.config.dim, self.dtype, name="reader")(hidden, patches)
        offsets = Dense(2, dtype=self.dtype, name="offset")(reading.hidden)
        attended = jnp.sum(reading.attended, axis=(2, 3))
        summary = reading.summary.reshape(*hidden.shape[:-1], -1)
        inputs = jnp.concatenate([hidden, summary, attended], axis=-1)
        out = Mlp(self.config.dim, self.rotation.size + 1, self.dtype, name="pose")(inputs).astype(jnp.float32)
        return Heatmaps(reading.scores[..., 0, :], offsets.astype(jnp.float32), out[..., :-1], out[..., -1])

    def targets(self, actions: Float[Array, "B T 8"], cameras: CameraParams) -> Heatmaps:
        """The action in the prediction's units."""
        heatmaps = heatmap_targets(actions[..., :3], cameras)
        return Heatmaps(heatmaps.shares, heatmaps.offsets, self.rotation.targets(actions[..., 3:7]), actions[..., 7])

    def loss(self, predicted: Heatmaps, targets: Heatmaps) -> Float[Array, "B T"]:
        """Cross-entropies of the heatmaps, the rotation and the gripper, and offset errors at the target patches."""
        config = self.config
        errors = jnp.sum(jnp.abs(predicted.offsets - targets.offsets), axis=-1)
        offset = jnp.mean(jnp.sum(targets.scores[..., :-1] * errors, axis=-1), axis=-1)
        loss = config.heatmap_weight * heatmap_loss(predicted.scores, targets.scores) + config.offset_weight * offset
        loss += config.rotation_weight * self.rotation.loss(predicted.rotation, targets.rotation)
        gripper = flag_loss(predicted.gripper, targets.gripper)
        return loss + config.gripper_weight * gripper

    def decode(self, predicted: Heatmaps, cameras: CameraParams) -> Float[Array, "B T 8"]:
        """The action at the point that all heatmaps together find most likely."""
        point = triangulate(predicted.scores, predicted.offsets, cameras, self.workspace)
        return join_action(point, self.rotation.decode(predicted.rotation), predicted.gripper, self.workspace)

    def heatmaps(self, predicted: Heatmaps) -> Float[Array, "B T K P"]:
        """The shares of the patches in which the action's point may be; the rest to one is that of out of view."""
        return nn.softmax(predicted.scores, axis=-1)[..., :-1]

    def error_parts(
        self, predicted: Heatmaps, position: Array, actual: Float[Array, "B T 3"], cameras: CameraParams
    ) -> dict[str, Float[Array, "B T"]]:
        """The decoded position's error in two parts (cm): of the heatmaps' best candidate, and of the choice.

        With one camera there is nothing to choose, and no part is given.
        """
        if predicted.scores.shape[-2] == 1:
            return {}
        error = jnp.linalg.norm(position - actual, axis=-1)
        best = jnp.minimum(nearest_candidate(predicted.scores, predicted.offsets, cameras, actual), error)
        return {"heatmap_cm": 100 * best, "decoding_cm": 100 * (error - best)}

    @property
    def rotation(self) -> BinnedRotation:
        """The rotation's bins."""
        return BinnedRotation(self.config.rotation_bins, self.config.rotation_sigma)
