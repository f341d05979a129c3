"""The spatial head: heatmaps over the patches of every camera, lifted to the most likely 3-D point.

Shapes as in `base`; P patches, D patch width, E policy width.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.actions import (
    normalize_position,
)
from instructrl.config.heads import SpatialConfig
from instructrl.models.geometry import project, rays, robust_closest_point_to_rays
from instructrl.models.heads.base import CameraParams, PosePrediction, decode_pose, pose_loss, pose_targets
from instructrl.models.layers.transformer import Mlp


class Heatmaps(NamedTuple):
    """A predicted point in every camera, and the rest of the pose."""

    scores: Any  # B T K P+1, logits over patches; the last one means out of view
    offsets: Any  # B T K P 2, from a patch's centre to the point, in patches
    pose: PosePrediction  # its position is unused


class HeatmapTargets(NamedTuple):
    """Target distribution over patches, and offsets, in every camera."""

    shares: Any  # B T K P+1, sums to one
    offsets: Any  # B T K P 2
    pose: PosePrediction


class SpatialHead(nn.Module):
    """Spatial head: a heatmap over each camera's patches, whose peaks are triangulated to a 3D point.

    Rotation and gripper are predicted from patch features pooled with the heatmaps.
    """

    config: SpatialConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B T E"], patches: Float[Array, "B T K P D"], cameras: CameraParams
    ) -> Heatmaps:
        width = self.config.dim
        query = nn.Dense(width, dtype=self.dtype, name="query")(hidden)[:, :, None]
        keys = nn.Dense(width, dtype=self.dtype, name="key")(patches)
        queries = jnp.broadcast_to(query, keys.shape[:3] + (width,))
        scores = jnp.einsum("btkpd,btkd->btkp", keys, queries, preferred_element_type=jnp.float32) * width**-0.5
        pooled = jnp.mean(keys, axis=-2) + query
        absent = nn.Dense(1, dtype=self.dtype, name="absent")(nn.gelu(pooled))
        scores = jnp.concatenate([scores, absent.astype(jnp.float32)], axis=-1)
        offsets = nn.Dense(2, dtype=self.dtype, name="offset")(nn.gelu(keys + query[..., None, :]))
        attention = jax.nn.softmax(scores, axis=-1)[..., :-1].astype(self.dtype)
        attended = jnp.einsum("btkp,btkpd->btd", attention, patches)
        out = Mlp(width, 5, self.dtype, name="pose")(jnp.concatenate([hidden, attended], axis=-1)).astype(jnp.float32)
        pose = PosePrediction(jnp.zeros_like(out[..., :3]), out[..., :4], out[..., 4])
        return Heatmaps(scores, offsets.astype(jnp.float32), pose)

    def targets(self, actions: Float[Array, "B T 8"], cameras: CameraParams) -> HeatmapTargets:
        """The action's position, distributed bilinearly to the four nearest patches of each camera, or out of view."""
        side = cameras.side
        pixels, depth = project(actions[..., :3], cameras.intrinsics, cameras.extrinsics)
        point = pixels / cameras.image_size * side  # in patches, from the top left corner
        offsets = point[..., None, :] - patch_centres(side)  # B T K P 2
        shares = jnp.prod(jnp.clip(1 - jnp.abs(offsets), 0, 1), axis=-1)
        inside = jnp.all((point >= 0) & (point <= side), axis=-1) & (depth > 0)
        total = jnp.sum(shares, axis=-1)
        visible = inside & (total > 0)
        shares = jnp.where(visible[..., None], shares / jnp.where(total > 0, total, 1)[..., None], 0)
        shares = jnp.concatenate([shares, 1 - visible[..., None].astype(shares.dtype)], axis=-1)
        return HeatmapTargets(shares, jnp.clip(offsets, -2, 2), pose_targets(actions))

    def loss(self, predicted: Heatmaps, targets: HeatmapTargets) -> Float[Array, "B T"]:
        """Cross-entropy of the heatmaps, offset errors at the target patches, and pose errors."""
        entropy = -jnp.sum(targets.shares * jax.nn.log_softmax(predicted.scores, axis=-1), axis=-1)
        errors = jnp.sum(jnp.abs(predicted.offsets - targets.offsets), axis=-1)
        error = jnp.sum(targets.shares[..., :-1] * errors, axis=-1)
        point = self.config.heatmap_weight * entropy + self.config.offset_weight * error
        return jnp.mean(point, axis=-1) + pose_loss(self.config, predicted.pose, targets.pose)

    def decode(self, predicted: Heatmaps, cameras: CameraParams) -> Float[Array, "B T 8"]:
        """The action at the point closest to the rays through the heatmaps' peaks."""
        probability = jax.nn.softmax(predicted.scores, axis=-1)[..., :-1]
        peak = jnp.argmax(probability, axis=-1)
        offset = jnp.take_along_axis(predicted.offsets, peak[..., None, None], axis=-2)[..., 0, :]
        pixels = (patch_centres(cameras.side)[peak] + offset) * (cameras.image_size / cameras.side)
        weights = jnp.max(probability, axis=-1) ** 2 + 1e-6
        origins, directions = rays(pixels, cameras.intrinsics, cameras.extrinsics)
        point = robust_closest_point_to_rays(origins, directions, weights)
        return decode_pose(predicted.pose._replace(position=normalize_position(point)))


def patch_centres(side: int) -> Float[Array, "P 2"]:
    """Column and row of each patch's centre, in patches from the image's top left corner."""
    rows, columns = jnp.meshgrid(jnp.arange(side) + 0.5, jnp.arange(side) + 0.5, indexing="ij")
    return jnp.stack([columns.ravel(), rows.ravel()], axis=-1)
