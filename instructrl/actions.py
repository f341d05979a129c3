"""Keyframe actions: position, quaternion and gripper, and rotations in bins.

An action is 8 numbers: x y z in meters in the world frame, a unit quaternion x y z w with w >= 0, and
gripper open in {0, 1}; of the action space `keyframe_collisions` a ninth is 1 if the path may collide. Functions take
numpy or jax arrays and return the same type (array API).

Euler angles are three rotations about the fixed axes x, y, z, in this order (extrinsic; `as_euler("xyz")` in scipy).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrl.errors import InputError
from instructrl.types import ACTION_SIZE

GIMBAL_LOCK = 1e-4  # radians from +-pi/2 within which float32 no longer resolves the other two angles, approximately


def canonical_quaternion(quaternion: Any) -> Any:
    """Return the same rotation as a unit quaternion x y z w with w >= 0; a zero quaternion becomes the identity."""
    xp = quaternion.__array_namespace__()
    square = xp.sum(quaternion * quaternion, axis=-1, keepdims=True)
    identity = xp.zeros_like(quaternion) + xp.asarray([0.0, 0.0, 0.0, 1.0], dtype=quaternion.dtype)
    tiny = square < 1e-16
    norm = xp.sqrt(xp.where(tiny, xp.ones_like(square), square))  # not of zero, where the gradient is infinite
    unit = xp.where(tiny, identity, quaternion / norm)
    return xp.where(unit[..., 3:] < 0, -unit, unit)


def rotation_matrix(quaternion: Any) -> Any:
    """Convert unit quaternions [..., 4] of either sign to rotation matrices [..., 3, 3]."""
    xp = quaternion.__array_namespace__()
    x, y, z, w = (quaternion[..., i] for i in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_columns(columns: Any) -> Any:
    """Canonical quaternions [..., 4] of the rotations whose matrices begin with columns near these [..., 3, 2].

    The columns are made orthonormal first, by Gram and Schmidt's method (Zhou et al. 2019, section 4.2).
    """
    xp = columns.__array_namespace__()
    first = _unit(columns[..., 0])
    across = columns[..., 1]
    second = _unit(across - xp.sum(first * across, axis=-1, keepdims=True) * first)
    (a, d, g), (b, e, h) = (tuple(column[..., i] for i in range(3)) for column in (first, second))
    c, f, i = d * h - g * e, g * b - a * h, a * e - d * b  # the third column: their cross product
    rows = [  # multiples of the quaternion, each by four times one of its numbers; the longest is the most accurate
        [1 + a - e - i, b + d, c + g, h - f],
        [b + d, 1 - a + e - i, f + h, c - g],
        [c + g, f + h, 1 - a - e + i, d - b],
        [h - f, c - g, d - b, 1 + a + e + i],
    ]
    multiples = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
    longest = xp.argmax(xp.sum(multiples * multiples, axis=-1), axis=-1)
    return canonical_quaternion(xp.take_along_axis(multiples, longest[..., None, None], axis=-2)[..., 0, :])


def _unit(vector: Any) -> Any:
    """A vector [..., 3] at length 1, unless it is almost zero."""
    xp = vector.__array_namespace__()
    return vector / xp.sqrt(xp.sum(vector * vector, axis=-1, keepdims=True) + 1e-12)


def rotation_angle(first: Any, second: Any) -> Any:
    """Return the angle in radians, in [0, pi], between two rotations given as unit quaternions of either sign."""
    xp = first.__array_namespace__()
    cosine = xp.abs(xp.sum(first * second, axis=-1))
    return 2 * xp.arccos(xp.clip(cosine, 0.0, 1.0))


def turn_about_approach(action: np.ndarray, angle: float) -> np.ndarray:
    """Return the action [8] with the gripper turned by an angle (radians) about its approach axis, z of its frame."""
    x, y, z, w = action[3:7]
    sine, cosine = math.sin(angle / 2), math.cos(angle / 2)
    turned = [x * cosine + y * sine, y * cosine - x * sine, z * cosine + w * sine, w * cosine - z * sine]
    return np.concatenate([action[:3], canonical_quaternion(np.array(turned)), action[7:]])


def euler_angles(quaternion: Any) -> Any:
    """Convert unit quaternions [..., 4] of either sign to angles about x, y, z in radians [..., 3].

    Of the two equivalent triples, return that with the middle angle in [-pi/2, pi/2]; the others are in [-pi, pi]. At
    the limits of the middle angle (gimbal lock) only the sum or the difference of the others is determined: there the
    first is pi.
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
    return xp.stack([wrap_angle(half_sum - half_difference), middle, wrap_angle(half_sum + half_difference)], axis=-1)


def quaternion_from_euler(angles: Any) -> Any:
    """Invert `euler_angles`: canonical quaternions [..., 4] of any angles [..., 3]."""
    xp = angles.__array_namespace__()
    (sin_a, sin_b, sin_c), (cos_a, cos_b, cos_c) = (
        tuple(function(angles[..., i] / 2) for i in range(3)) for function in (xp.sin, xp.cos)
    )
    parts = [
        sin_a * cos_b * cos_c - cos_a * sin_b * sin_c,
        cos_a * sin_b * cos_c + sin_a * cos_b * sin_c,
        cos_a * cos_b * sin_c - sin_a * sin_b * cos_c,
        cos_a * cos_b * cos_c + sin_a * sin_b * sin_c,
    ]
    return canonical_quaternion(xp.stack(parts, axis=-1))


def wrap_angle(angle: Any) -> Any:
    """Wrap an angle to [-pi, pi]."""
    xp = angle.__array_namespace__()
    return angle - 2 * math.pi * xp.round(angle / (2 * math.pi))


def rotation_in_bins(quaternion: Any, count: int) -> Any:
    """Euler angles of quaternions [..., 4] in bins [..., 3]: equal bins over 2 pi, whose centres are integers.

    Bin 0 is centered on pi, as in PerAct: the angles of a gripper that points down are at bin centers, not edges;
    with a multiple of 4 bins, so are all multiples of pi/2. If the middle angle's bin represents gimbal lock, the first
    angle is pi, so that every rotation has a unique triple of bins.
    """
    xp = quaternion.__array_namespace__()
    angles = euler_angles(canonical_quaternion(quaternion))
    first, middle, last = (angles[..., i] for i in range(3))
    low = lowest_tilt(count)
    if 4 * low <= count:  # its center is at -pi/2 or beyond, which is decoded as gimbal lock
        tilt = xp.round(turn_fraction(middle) * count)
        locked = (tilt <= low) | (tilt >= count - low)
        last = xp.where(locked, last - xp.sign(middle) * first + math.pi, last)
        first = xp.where(locked, math.pi, first)
    return xp.stack([turn_fraction(angle) * count for angle in (first, middle, last)], axis=-1)


def rotation_from_bins(values: Any, count: int) -> Any:
    """Invert `rotation_in_bins`: the canonical quaternion [..., 4]; values may lie between bins."""
    xp = values.__array_namespace__()
    angles = (values / count - 0.5) * (2 * math.pi)
    middle = xp.clip(angles[..., 1], -math.pi / 2, math.pi / 2)
    return quaternion_from_euler(xp.stack([angles[..., 0], middle, angles[..., 2]], axis=-1))


def lowest_tilt(count: int) -> int:
    """The bin of the middle angle that is nearest to -pi/2; of two, the inner one."""
    return (count + 2) // 4


def turn_fraction(angle: Any) -> Any:
    """Map an angle from [-pi, pi] to [0, 1]."""
    return wrap_angle(angle) / (2 * math.pi) + 0.5


def stack_actions(actions: Sequence[Any]) -> np.ndarray:
    """Return the actions of an episode as float64 [T A]; without any, [0 8]."""
    return np.array(actions, np.float64) if len(actions) else np.zeros((0, ACTION_SIZE))


def check_action(action: Any, *, sizes: Sequence[int] = (ACTION_SIZE,)) -> np.ndarray:
    """Return the action as float64 with a canonical quaternion, and gripper and collision flag rounded to 0 or 1.

    Args:
        action: numbers of an action.
        sizes: how many there may be.

    Raises:
        InputError: wrong shape, a number that is not finite, or a quaternion that is not of unit length.
    """
    action = np.asarray(action, np.float64)
    if action.shape not in [(size,) for size in sizes]:
        expected = " or ".join(f"({size},)" for size in sizes)
        flag = ", collisions ignored" if max(sizes) > ACTION_SIZE else ""
        raise InputError(
            f"action: found shape {action.shape}, expected {expected}: x y z, quaternion x y z w, gripper{flag}"
        )
    if not np.isfinite(action).all():
        raise InputError(
            f"action: found {action.tolist()}, expected finite numbers; the policy diverged, see its metrics"
        )
    norm = float(np.linalg.norm(action[3:7]))
    if abs(norm - 1) > 1e-2:
        raise InputError(f"action: found a quaternion of length {norm:.3g}, expected 1; normalize it")
    return np.concatenate([action[:3], canonical_quaternion(action[3:7]), (action[7:] > 0.5).astype(float)])
