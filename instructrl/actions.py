"""Keyframe actions: position, quaternion and gripper, and their normalised forms.

An action is 8 numbers: x y z in metres in the world frame, a unit quaternion x y z w with w >= 0, and
gripper open in {0, 1}. Functions take numpy or jax arrays and answer in kind (array API).
"""

from typing import Any

import numpy as np

from instructrl.errors import InputError

WORKSPACE_LOW = np.array([-0.3, -0.5, 0.6], np.float32)  # metres, world frame
WORKSPACE_HIGH = np.array([0.7, 0.5, 1.6], np.float32)


def normalize_position(position: Any) -> Any:
    """Map metres in the workspace to [-1, 1] per axis (points outside map outside)."""
    return (position - WORKSPACE_LOW) / (WORKSPACE_HIGH - WORKSPACE_LOW) * 2 - 1


def denormalize_position(normalized: Any) -> Any:
    """Inverse of `normalize_position`."""
    return (normalized + 1) / 2 * (WORKSPACE_HIGH - WORKSPACE_LOW) + WORKSPACE_LOW


def canonical_quaternion(quaternion: Any) -> Any:
    """The same rotation as a unit quaternion x y z w with w >= 0. A zero quaternion becomes the identity."""
    xp = quaternion.__array_namespace__()
    square = xp.sum(quaternion * quaternion, axis=-1, keepdims=True)
    identity = xp.zeros_like(quaternion) + xp.asarray([0.0, 0.0, 0.0, 1.0], dtype=quaternion.dtype)
    tiny = square < 1e-16
    norm = xp.sqrt(xp.where(tiny, xp.ones_like(square), square))  # never of zero, whose gradient is infinite
    unit = xp.where(tiny, identity, quaternion / norm)
    return xp.where(unit[..., 3:] < 0, -unit, unit)


def rotation_matrix(quaternion: Any) -> Any:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4], the same for both signs."""
    xp = quaternion.__array_namespace__()
    x, y, z, w = (quaternion[..., i] for i in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_angle(first: Any, second: Any) -> Any:
    """Angle in radians, in [0, pi], between two rotations given as unit quaternions of either sign."""
    xp = first.__array_namespace__()
    cosine = xp.abs(xp.sum(first * second, axis=-1))
    return 2 * xp.arccos(xp.clip(cosine, 0.0, 1.0))


def check_action(action: Any) -> np.ndarray:
    """The action as float64[8] with a canonical quaternion and gripper rounded to 0 or 1.

    Raises:
        InputError: wrong size, a number that is not finite, or a quaternion far from unit length.
    """
    action = np.asarray(action, np.float64)
    if action.shape != (8,):
        raise InputError(f"action: found shape {action.shape}, expected (8,): x y z, quaternion x y z w, gripper")
    if not np.isfinite(action).all():
        raise InputError(
            f"action: found {action.tolist()}, expected finite numbers; the policy diverged, see its metrics"
        )
    norm = float(np.linalg.norm(action[3:7]))
    if abs(norm - 1) > 1e-2:
        raise InputError(f"action: found a quaternion of length {norm:.3g}, expected 1; normalise it")
    return np.concatenate([action[:3], canonical_quaternion(action[3:7]), [float(action[7] > 0.5)]])
