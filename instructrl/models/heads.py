"""Action heads: prediction, targets, loss and decoding of a keyframe action from the policy's output.

Shapes: B sequences, T steps, K cameras, P patches, D patch width, E policy width, N position bins, M rotation bins.
Positions are in normalised workspace units unless stated otherwise.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from instructrl.actions import (
    canonical_quaternion,
    denormalize_position,
    discretize,
    normalize_position,
    rotation_angle,
    undiscretize,
)
from instructrl.config import HeadConfig
from instructrl.models.geometry import project, rays, robust_closest_point_to_rays
from instructrl.models.layers import Mlp


class CameraParams(NamedTuple):
    """Cameras of the images to which the patches belong."""

    intrinsics: Any  # B T K 3 3
    extrinsics: Any  # B T K 4 4
    image_size: int  # pixels
    side: int  # patches along an edge of the image


class PosePrediction(NamedTuple):
    """A predicted pose and gripper state before decoding."""

    position: Any  # B T 3, normalised
    quaternion: Any  # B T 4, not normalised
    gripper: Any  # B T, logit of open


class RegressionHead(nn.Module):
    """Regression head of the method: eight numbers from the prediction token alone."""

    config: HeadConfig
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


class BinLogits(NamedTuple):
    """Logits of an action's bins."""

    position: Any  # B T 3 N
    rotation: Any  # B T 3 M, of Euler angles
    gripper: Any  # B T 2, closed and open


class DiscreteHead(nn.Module):
    """Discrete head of the method: for every axis the probabilities of its bins, from the prediction token alone."""

    config: HeadConfig
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

    config: HeadConfig
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


def cross_entropy(logits: Float[Array, "... N"], labels: Int[Array, "..."]) -> Float[Array, "..."]:
    """Cross-entropy with integer labels."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), labels[..., None], axis=-1)[..., 0]


def patch_centres(side: int) -> Float[Array, "P 2"]:
    """Column and row of each patch's centre, in patches from the image's top left corner."""
    rows, columns = jnp.meshgrid(jnp.arange(side) + 0.5, jnp.arange(side) + 0.5, indexing="ij")
    return jnp.stack([columns.ravel(), rows.ravel()], axis=-1)


def pose_targets(actions: Float[Array, "B T 8"]) -> PosePrediction:
    """The action with its position normalised."""
    return PosePrediction(
        normalize_position(actions[..., :3]), canonical_quaternion(actions[..., 3:7]), actions[..., 7]
    )


def pose_loss(config: HeadConfig, predicted: PosePrediction, targets: PosePrediction) -> Float[Array, "B T"]:
    """Weighted squared errors of rotation (minimum over the quaternion's signs) and of the gripper."""
    same = jnp.mean((predicted.quaternion - targets.quaternion) ** 2, axis=-1)
    opposite = jnp.mean((predicted.quaternion + targets.quaternion) ** 2, axis=-1)
    gripper = (jax.nn.sigmoid(predicted.gripper) - targets.gripper) ** 2
    return config.rotation_weight * jnp.minimum(same, opposite) + config.gripper_weight * gripper


def decode_pose(pose: PosePrediction) -> Float[Array, "B T 8"]:
    """Decode to a position in metres within the workspace, a unit quaternion and a binary gripper state."""
    position = denormalize_position(jnp.clip(pose.position, -1, 1))
    gripper = (pose.gripper > 0).astype(position.dtype)
    return jnp.concatenate([position, canonical_quaternion(pose.quaternion), gripper[..., None]], axis=-1)


def action_errors(predicted: Float[Array, "B T 8"], actions: Float[Array, "B T 8"]) -> dict[str, Float[Array, "B T"]]:
    """Action errors: position in cm, rotation in degrees, and accuracy of the gripper (1 if correct)."""
    return {
        "position_cm": 100 * jnp.linalg.norm(predicted[..., :3] - actions[..., :3], axis=-1),
        "rotation_deg": jnp.degrees(rotation_angle(predicted[..., 3:7], actions[..., 3:7])),
        "gripper_accuracy": (predicted[..., 7] == actions[..., 7]).astype(jnp.float32),
    }


def make_head(config: HeadConfig, *, dtype: Any = jnp.float32) -> nn.Module:
    """Build the configured head."""
    return {"regression": RegressionHead, "discrete": DiscreteHead, "spatial": SpatialHead}[config.kind](config, dtype)


def reads_patches(config: HeadConfig) -> bool:
    """Return True if a head reads patch features."""
    return config.kind == "spatial"
