"""Converts RLBench observations, live or stored, to the conventions of `instructrl.types`.

CoppeliaSim's cameras have x to the left, y up and z into the scene; PyRep compensates with negative focal lengths. In
`instructrl.types` x points right and y down, so both matrices are rotated by 180 degrees about the optical axis: focal
lengths become positive, and pixels do not change.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrl.errors import InputError

MAX_STEPS = 25  # keyframes of an episode, as in PerAct
_HALF_CIRCLE = np.diag([-1.0, -1.0, 1.0])


def intrinsics(matrix: Any) -> np.ndarray:
    """Camera coordinates to pixels, float32 [3 3], of PyRep's matrix with its negative focal lengths.

    Raises:
        InputError: it is not such a matrix.
    """
    values = _numbers("intrinsics", matrix, (3, 3))
    if not (values[0, 0] < 0 and values[1, 1] < 0):
        raise InputError(
            f"intrinsics: found focal lengths {values[0, 0]:g} and {values[1, 1]:g}, expected negative ones; "
            "this is not a matrix of PyRep 4.1, which make rlbench installs"
        )
    return (values @ _HALF_CIRCLE).astype(np.float32)


def extrinsics(matrix: Any) -> np.ndarray:
    """Camera to world, float32 [4 4], metres, of CoppeliaSim's pose matrix [4 4] or [3 4].

    Raises:
        InputError: it is not such a matrix.
    """
    values = np.asarray(matrix, np.float64)
    values = _numbers("extrinsics", np.vstack([values, [0, 0, 0, 1]]) if values.shape == (3, 4) else values, (4, 4))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = values[:3, :3] @ _HALF_CIRCLE, values[:3, 3]
    return pose.astype(np.float32)


def images(observation: Any, cameras: Sequence[str]) -> np.ndarray:
    """RGB images, uint8 [K H W 3], in the order of the cameras."""
    rgb = [np.asarray(observed(observation, f"{name}_rgb")) for name in cameras]
    formats = sorted({f"{image.dtype}{image.shape}" for image in rgb})
    if len(formats) != 1 or rgb[0].dtype != np.uint8 or rgb[0].shape[2:] != (3,):
        raise InputError(f"images: found {', '.join(formats)}, expected one uint8(height, width, 3) for each camera")
    return np.stack(rgb)


def matrices(observation: Any, cameras: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [K 3 3] and extrinsics [K 4 4] in the order of the cameras."""
    misc = observed(observation, "misc")
    return (
        np.stack([intrinsics(_entry(misc, f"{name}_camera_intrinsics")) for name in cameras]),
        np.stack([extrinsics(_entry(misc, f"{name}_camera_extrinsics")) for name in cameras]),
    )


def depths(observation: Any, cameras: Sequence[str]) -> np.ndarray:
    """Metres along the optical axis, float32 [K H W], from depths normalized between the near and far planes."""
    misc, depth_images = observed(observation, "misc"), []
    for name in cameras:
        near, far = (float(_entry(misc, f"{name}_camera_{end}")) for end in ("near", "far"))
        depth_images.append(near + np.asarray(observed(observation, f"{name}_depth"), np.float64) * (far - near))
    return np.stack(depth_images).astype(np.float32)


def state(observation: Any, time: float) -> np.ndarray:
    """Gripper open, its two finger positions in metres, and the time in [-1, 1], float32 [4]."""
    fingers = _numbers("gripper_joint_positions", observed(observation, "gripper_joint_positions"), (2,))
    return np.array([float(observed(observation, "gripper_open")) > 0.5, *fingers, time], np.float32)


def observed(observation: Any, field: str) -> Any:
    """A field of an observation.

    Raises:
        InputError: the field is missing or was disabled when the observation was recorded.
    """
    value = getattr(observation, field, None)
    if value is None:
        raise InputError(f"observation: {field} is missing; it was disabled in the recording")
    return value


def _entry(misc: Any, key: str) -> Any:
    if misc.get(key) is None:
        raise InputError(f"observation: misc has no {key}; its camera was disabled in the recording")
    return misc[key]


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise InputError(f"{name}: found {array.tolist()}, expected finite numbers of shape {shape}")
    return array
