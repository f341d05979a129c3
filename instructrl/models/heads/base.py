"""Parts shared by action heads: cameras, poses as regressed, the decoded action and metric errors.

Shapes: B sequences, T steps, K cameras.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.actions import canonical_quaternion, rotation_angle
from instructrl.config.model import HeadConfig
from instructrl.workspace import Workspace


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


def pose_targets(actions: Float[Array, "B T 8"], workspace: Workspace) -> PosePrediction:
    """The action with its position normalised."""
    position, quaternion = workspace.normalize(actions[..., :3]), canonical_quaternion(actions[..., 3:7])
    return PosePrediction(position, quaternion, actions[..., 7])


def pose_loss(config: HeadConfig, predicted: PosePrediction, targets: PosePrediction) -> Float[Array, "B T"]:
    """Weighted squared errors of rotation (minimum over the quaternion's signs) and of the gripper."""
    same = jnp.mean((predicted.quaternion - targets.quaternion) ** 2, axis=-1)
    opposite = jnp.mean((predicted.quaternion + targets.quaternion) ** 2, axis=-1)
    gripper = (jax.nn.sigmoid(predicted.gripper) - targets.gripper) ** 2
    return config.rotation_weight * jnp.minimum(same, opposite) + config.gripper_weight * gripper


def decode_pose(pose: PosePrediction, workspace: Workspace) -> Float[Array, "B T 8"]:
    """Decode to a position in metres within the workspace, a unit quaternion and a binary gripper state."""
    position, quaternion = workspace.denormalize(pose.position), canonical_quaternion(pose.quaternion)
    return join_action(position, quaternion, pose.gripper, workspace)


def join_action(
    position: Float[Array, "B T 3"],
    quaternion: Float[Array, "B T 4"],
    gripper: Float[Array, "B T"],
    workspace: Workspace,
) -> Float[Array, "B T 8"]:
    """An action from a position (m), clipped to the workspace, a unit quaternion and the logit of an open gripper."""
    position = workspace.clip(position)
    gripper = (gripper > 0).astype(position.dtype)
    return jnp.concatenate([position, quaternion, gripper[..., None]], axis=-1)


def flag_loss(logit: Float[Array, "B T"], flag: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Binary cross-entropy of the logit of a flag, such as an open gripper."""
    return jax.nn.softplus(logit) - flag * logit


def action_errors(predicted: Float[Array, "B T A"], actions: Float[Array, "B T A"]) -> dict[str, Float[Array, "B T"]]:
    """Action errors: position in cm, rotation in degrees, and accuracy of gripper and collision flag (1 if correct)."""
    correct = (predicted[..., 7:] == actions[..., 7:]).astype(jnp.float32)
    accuracies = {"gripper_accuracy": correct[..., 0]}
    if correct.shape[-1] > 1:
        accuracies["collision_accuracy"] = correct[..., 1]
    return {
        "position_cm": 100 * jnp.linalg.norm(predicted[..., :3] - actions[..., :3], axis=-1),
        "rotation_deg": jnp.degrees(rotation_angle(predicted[..., 3:7], actions[..., 3:7])),
        **accuracies,
    }
