"""Numbers that no robot's scene has: a fault of the data or of a driver, of which one spoils all that follows."""

import numpy as np

from instructrl.errors import InputError, format_value
from instructrl.types import Observation
from instructrl.workspace import LARGEST as LARGEST_POSITION
from instructrl.workspace import Workspace

LARGEST = LARGEST_POSITION  # of a state's numbers as well
LARGEST_PIXEL = 1e6  # of focal lengths and principal points
MAX_REACH = 2.0  # metres from the centre of the workspace; an arm at its side reaches less
SMALLEST = 1e-6  # of focal lengths in pixels, and of the volume that a camera's axes span

RULES = {  # the rule of each array, as errors say it
    "state": f"finite, at most {LARGEST:g}",
    "intrinsics": f"finite, at most {LARGEST_PIXEL:g}, focal lengths not zero",
    "extrinsics": f"finite, at most {LARGEST:g}, three independent axes",
}
ACTION_RULE = f"a position of at most {LARGEST:g}, a unit quaternion x y z w with w >= 0, gripper open 0 or 1"


def implausible(name: str, values: np.ndarray) -> np.ndarray:
    """Return which entries [N] of an array break its rule.

    Args:
        name: a key of `RULES`.
        values: `state` [N, S], `intrinsics` [N, ..., 3, 3] or `extrinsics` [N, ..., 4, 4].
    """
    values = np.asarray(values, np.float64)
    limit = LARGEST_PIXEL if name == "intrinsics" else LARGEST
    within = np.isfinite(values) & (np.abs(values) <= limit)
    wrong = ~within.reshape(len(values), -1).all(axis=1)
    usable = np.where(within, values, 0.0)
    if name == "intrinsics":
        degenerate = np.minimum(np.abs(usable[..., 0, 0]), np.abs(usable[..., 1, 1])) < SMALLEST
    elif name == "extrinsics":
        degenerate = np.abs(np.linalg.det(usable[..., :3, :3])) < SMALLEST
    else:
        return wrong
    return wrong | degenerate.reshape(len(values), -1).any(axis=1)


def implausible_actions(actions: np.ndarray) -> np.ndarray:
    """Return which actions [N, A] of demonstrations break `ACTION_RULE`; those that are not finite do."""
    rotation, flags = actions[:, 3:7], actions[:, 7:]
    unit = np.abs(np.linalg.norm(rotation.astype(np.float64), axis=1) - 1) < 1e-2
    near = (np.abs(actions[:, :3]) <= LARGEST).all(1)
    binary = ((flags == 0) | (flags == 1)).all(1)
    return ~(near & unit & (rotation[:, 3] >= 0) & binary)


def check_observation(
    observation: Observation, *, views: int, size: int, state: int, form_hint: str = "", value_hint: str = ""
) -> Observation:
    """Return an observation as arrays of the types that an agent takes.

    Args:
        observation: of anything that converts to arrays.
        views: the number of cameras.
        size: side length of the images in pixels.
        state: the number of the state's values.
        form_hint: what an error about a shape or a type adds.
        value_hint: what an error about numbers adds.

    Raises:
        InputError: an array has a wrong shape or type, or numbers that no scene has.
    """
    expected = {
        "images": ((views, size, size, 3), np.uint8),
        "state": ((state,), np.float32),
        "intrinsics": ((views, 3, 3), np.float32),
        "extrinsics": ((views, 4, 4), np.float32),
    }
    arrays = {}
    for name, (shape, dtype) in expected.items():
        try:
            arrays[name] = found = np.asarray(getattr(observation, name))
        except ValueError:  # nested lists of unequal lengths
            raise InputError(
                f"observation.{name}: found no array, expected {np.dtype(dtype)}{shape}{form_hint}"
            ) from None
        if found.shape != shape or not np.can_cast(found.dtype, dtype, "same_kind"):
            raise InputError(
                f"observation.{name}: found {found.dtype}{found.shape}, expected {np.dtype(dtype)}{shape}{form_hint}"
            )
    for name, rule in RULES.items():
        if implausible(name, arrays[name][None]).any():
            raise InputError(
                f"observation.{name}: found {format_value(arrays[name].tolist())}, expected {rule}{value_hint}"
            )
    typed = {name: np.asarray(found, expected[name][1]) for name, found in arrays.items()}
    return Observation(**typed, instruction=observation.instruction)


def check_gripper_poses(poses: np.ndarray, workspace: Workspace) -> None:
    """Check recorded tip poses [N 7] of an arm at a workspace; what is not finite is left to those who use it.

    Raises:
        InputError: a position is out of an arm's reach, or a quaternion is not one.
    """
    low, high = workspace.bounds
    centre = (low + high) / 2
    away, length = np.linalg.norm(poses[:, :3] - centre, axis=1), np.linalg.norm(poses[:, 3:], axis=1)
    for wrong, found, allowed in (
        (away > MAX_REACH, away, f"m from the centre of the workspace, allowed: at most {MAX_REACH:g}"),
        (np.abs(length - 1) > 1e-2, length, "as the length of a quaternion, expected 1"),
    ):
        if wrong.any():
            frame = int(np.argmax(wrong))
            raise InputError(f"gripper_pose: frame {frame}: found {found[frame]:.3g} {allowed}; leave this one out")
