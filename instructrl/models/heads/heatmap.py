"""Targets of heatmaps over patches: where the action's position appears in every camera.

Shapes as in `base`; P patches.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.models.geometry import project
from instructrl.models.heads.base import CameraParams
from instructrl.models.patch_reader import patch_centres


class HeatmapTargets(NamedTuple):
    """Target distribution over patches, and offsets, in every camera."""

    shares: Any  # B T K P+1, sums to one; the last is the share of being out of view
    offsets: Any  # B T K P 2, from a patch's centre to the point, in patches


def heatmap_targets(position: Float[Array, "B T 3"], cameras: CameraParams) -> HeatmapTargets:
    """Distribute a position (m) bilinearly to the four nearest patches of each camera, or to out of view."""
    side = cameras.side
    pixels, depth = project(position, cameras.intrinsics, cameras.extrinsics)
    point = pixels / cameras.image_size * side  # in patches, from the top left corner
    offsets = point[..., None, :] - patch_centres(side)  # B T K P 2
    shares = jnp.prod(jnp.clip(1 - jnp.abs(offsets), 0, 1), axis=-1)
    inside = jnp.all((point >= 0) & (point <= side), axis=-1) & (depth > 0)
    total = jnp.sum(shares, axis=-1)
    visible = inside & (total > 0)
    shares = jnp.where(visible[..., None], shares / jnp.where(total > 0, total, 1)[..., None], 0)
    shares = jnp.concatenate([shares, 1 - visible[..., None].astype(shares.dtype)], axis=-1)
    return HeatmapTargets(shares, jnp.clip(offsets, -2, 2))


def heatmap_loss(scores: Float[Array, "B T K Q"], shares: Float[Array, "B T K Q"]) -> Float[Array, "B T"]:
    """Cross-entropy of scores (logits over the P patches and out of view), mean over cameras."""
    return jnp.mean(-jnp.sum(shares * jax.nn.log_softmax(scores, axis=-1), axis=-1), axis=-1)
