"""What an observation of RLBench says, in our conventions; live ones and stored ones alike.

CoppeliaSim's cameras have x to the left, y up and z into the scene; PyRep writes them down with negative focal
lengths, which turn both axes back. Ours have x to the right and y down (`instructrl.batch`), so both matrices turn by
half a circle about the line of sight: the focal lengths become positive and pixels stay where they are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrl.errors import InputError

_HALF_CIRCLE = np.diag([-1.0, -1.0, 1.0])


def intrinsics(matrix: Any) -> np.ndarray:
    """Camera coordinates to pixels, float32 [3 3], of PyRep's matrix with its negative focal lengths.

    Raises:
        InputError: the matrix is not of that kind.
    """
    given = _numbers("intrinsics", matrix, (3, 3))
    if not (given[0, 0] < 0 and given[1, 1] < 0):
        raise InputError(
            f"intrinsics: found focal lengths {given[0, 0]:g} and {given[1, 1]:g}, expected negative ones; "
            "this is no matrix of PyRep 4.1, install that with make rlbench"
        )
    return (given @ _HALF_CIRCLE).astype(np.float32)


def extrinsics(matrix: Any) -> np.ndarray:
    """Camera to world, float32 [4 4], metres, of CoppeliaSim's pose matrix [4 4] or [3 4].

    Raises:
        InputError: the matrix is not of that kind.
    """
    given = np.asarray(matrix, np.float64)
    given = _numbers("extrinsics", np.vstack([given, [0, 0, 0, 1]]) if given.shape == (3, 4) else given, (4, 4))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = given[:3, :3] @ _HALF_CIRCLE, given[:3, 3]
    return pose.astype(np.float32)


def images(observation: Any, cameras: Sequence[str]) -> np.ndarray:
    """uint8 [K H W 3] in the order of the cameras."""
    pictures = [np.asarray(present(observation, f"{name}_rgb")) for name in cameras]
    kinds = sorted({f"{picture.dtype}{picture.shape}" for picture in pictures})
    if len(kinds) != 1 or pictures[0].dtype != np.uint8 or pictures[0].shape[2:] != (3,):
        raise InputError(f"images: found {', '.join(kinds)}, expected one uint8(height, width, 3) for each camera")
    return np.stack(pictures)


def matrices(observation: Any, cameras: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [K 3 3] and extrinsics [K 4 4] in the order of the cameras."""
    about = present(observation, "misc")
    return (
        np.stack([intrinsics(_entry(about, f"{name}_camera_intrinsics")) for name in cameras]),
        np.stack([extrinsics(_entry(about, f"{name}_camera_extrinsics")) for name in cameras]),
    )


def depths(observation: Any, cameras: Sequence[str]) -> np.ndarray:
    """Metres along the optical axis, float32 [K H W], of depths from 0 to 1 between the near and the far plane."""
    about, measured = present(observation, "misc"), []
    for name in cameras:
        near, far = (float(_entry(about, f"{name}_camera_{end}")) for end in ("near", "far"))
        measured.append(near + np.asarray(present(observation, f"{name}_depth"), np.float64) * (far - near))
    return np.stack(measured).astype(np.float32)


def state(observation: Any, time: float) -> np.ndarray:
    """Gripper open, its two finger positions in metres, and the time in [-1, 1], float32 [4]."""
    fingers = _numbers("gripper_joint_positions", present(observation, "gripper_joint_positions"), (2,))
    return np.array([float(present(observation, "gripper_open")) > 0.5, *fingers, time], np.float32)


def present(observation: Any, field: str) -> Any:
    """A field of an observation.

    Raises:
        InputError: it is not there or was switched off when the observation was made.
    """
    value = getattr(observation, field, None)
    if value is None:
        raise InputError(f"observation: {field} is missing; it was switched off where this was recorded")
    return value


def _entry(about: Any, key: str) -> Any:
    if about.get(key) is None:
        raise InputError(f"observation: misc has no {key}; its camera was switched off where this was recorded")
    return about[key]


def _numbers(what: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise InputError(f"{what}: found {array.tolist()}, expected finite numbers of shape {shape}")
    return array
