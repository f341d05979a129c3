"""Keyframe actions: position, quaternion and gripper, and their normalised and discretised forms.

An action is 8 numbers: x y z in metres in the world frame, a unit quaternion x y z w with w >= 0, and
gripper open in {0, 1}. Functions take numpy or jax arrays and answer in kind (array API).

Euler angles are three turns about the fixed axes x, y, z, in this order (extrinsic; `as_euler("xyz")` in scipy).
"""

import math
from typing import Any

import numpy as np

from instructrl.errors import InputError

WORKSPACE_LOW = np.array([-0.3, -0.5, 0.6], np.float32)  # metres, world frame
WORKSPACE_HIGH = np.array([0.7, 0.5, 1.6], np.float32)
GIMBAL_LOCK = 1e-4  # about the radians from a quarter turn within which float32 no longer tells the other two angles


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


def euler_angles(quaternion: Any) -> Any:
    """Turns about x, y, z in radians [..., 3] of unit quaternions [..., 4] of either sign.

    Of the two triples that are one rotation, the one whose middle angle is in [-pi/2, pi/2]; the others are in
    [-pi, pi]. At the ends of the middle angle (gimbal lock) only the sum or the difference of the others is
    determined: there the first is the half turn.
    """
    xp = quaternion.__array_namespace__()
    x, y, z, w = (quaternion[..., i] for i in range(4))
    # With angles a, b, c: w - y and x + z are (cos b/2 - sin b/2) times cosine and sine of (c + a)/2;
    # w + y and z - x are (cos b/2 + sin b/2) times cosine and sine of (c - a)/2.
    to_top, to_bottom = xp.hypot(w - y, x + z), xp.hypot(w + y, z - x)
    half_sum, half_difference = xp.atan2(x + z, w - y), xp.atan2(z - x, w + y)
    half_sum = xp.where(to_top < GIMBAL_LOCK, half_difference + math.pi, half_sum)
    half_difference = xp.where(to_bottom < GIMBAL_LOCK, half_sum - math.pi, half_difference)
    middle = math.pi / 2 - 2 * xp.atan2(to_top, to_bottom)
    return xp.stack([wrapped(half_sum - half_difference), middle, wrapped(half_sum + half_difference)], axis=-1)


def quaternion_of(angles: Any) -> Any:
    """Inverse of `euler_angles`: canonical quaternions [..., 4] of any angles [..., 3]."""
    xp = angles.__array_namespace__()
    (sin_a, sin_b, sin_c), (cos_a, cos_b, cos_c) = (
        tuple(turn(angles[..., i] / 2) for i in range(3)) for turn in (xp.sin, xp.cos)
    )
    parts = [
        sin_a * cos_b * cos_c - cos_a * sin_b * sin_c,
        cos_a * sin_b * cos_c + sin_a * cos_b * sin_c,
        cos_a * cos_b * sin_c - sin_a * sin_b * cos_c,
        cos_a * cos_b * cos_c + sin_a * sin_b * sin_c,
    ]
    return canonical_quaternion(xp.stack(parts, axis=-1))


def wrapped(angle: Any) -> Any:
    """The same angle within half a turn of zero."""
    xp = angle.__array_namespace__()
    return angle - 2 * math.pi * xp.round(angle / (2 * math.pi))


def discretize(actions: Any, *, position_bins: int, rotation_bins: int) -> Any:
    """Bins int32 [..., 7] of actions [..., 8]: of x, y, z, of the three Euler angles, and the gripper's class.

    Position: equal bins along each axis of the workspace, the nearest for points outside. Rotation: equal bins over
    a full turn, bin 0 centred on the half turn, as in PerAct: the angles of a gripper that points down lie amid
    their bins, not at an edge; with a multiple of 4 bins, so does every quarter turn. Where the middle angle's bin
    stands for gimbal lock, the first angle is the half turn: no rotation has two triples of bins.
    """
    xp = actions.__array_namespace__()
    share = (actions[..., :3] - WORKSPACE_LOW) / (WORKSPACE_HIGH - WORKSPACE_LOW)
    place = xp.clip(xp.floor(share * position_bins), 0, position_bins - 1)
    angles = euler_angles(canonical_quaternion(actions[..., 3:7]))
    first, middle, last = (angles[..., i] for i in range(3))
    low = (rotation_bins + 2) // 4  # of the middle angle: the bin nearest to -pi/2, the inner one of two
    tilt = xp.clip(xp.round(turns(middle) * rotation_bins), low, rotation_bins - low)
    if 4 * low <= rotation_bins:  # its centre is at -pi/2 or beyond, where it is decoded as gimbal lock
        locked = (tilt == low) | (tilt == rotation_bins - low)
        last = xp.where(locked, last - xp.sign(middle) * first + math.pi, last)
        first = xp.where(locked, math.pi, first)
    outer = [xp.round(turns(angle) * rotation_bins) % rotation_bins for angle in (first, last)]
    gripper = xp.astype(actions[..., 7] > 0.5, place.dtype)
    bins = xp.stack([*(place[..., i] for i in range(3)), outer[0], tilt, outer[1], gripper], axis=-1)
    return xp.astype(bins, xp.int32)


def undiscretize(bins: Any, *, position_bins: int, rotation_bins: int) -> Any:
    """Inverse of `discretize`: the actions float32 [..., 8] at the bins' centres.

    The position is within half a bin along each axis; the rotation is one whose Euler angles differ by at most
    half a bin each.
    """
    xp = bins.__array_namespace__()
    centre = (xp.astype(bins[..., :3], xp.float32) + 0.5) / position_bins
    position = centre * (WORKSPACE_HIGH - WORKSPACE_LOW) + WORKSPACE_LOW
    angles = (xp.astype(bins[..., 3:6], xp.float32) / rotation_bins - 0.5) * (2 * math.pi)
    limit = np.array([math.pi, math.pi / 2, math.pi], np.float32)
    quaternion = quaternion_of(xp.clip(angles, -limit, limit))
    return xp.concat([position, quaternion, xp.astype(bins[..., 6:], xp.float32)], axis=-1)


def turns(angle: Any) -> Any:
    """An angle as a share of the full turn that begins and ends at the half turn, in [0, 1]."""
    return wrapped(angle) / (2 * math.pi) + 0.5


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
