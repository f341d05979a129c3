"""Which frames of a dense demonstration are its keyframes, and the actions that lead to them.

As the field does it: the frames at which the gripper has opened or closed, at which the arm stops, and the last one.
Where the usual recipe stumbles, this one does not:

- It never looks before the first frame; the arm is taken to have stood there with the gripper as it was.
- Demonstrations without joint velocities are refused by name; `velocities` makes them from joint positions.
- An arm stops only if it has moved since the last keyframe. So an arm that stands gives one keyframe, not one every
  few frames, and none at the start or after the gripper's; and a slide as slow as the threshold gives none on its
  way, but one where it comes to rest.
"""

import numpy as np

from instructrl.actions import canonical_quaternion
from instructrl.errors import InputError

STILL = 0.1  # rad/s; below this in all joints the arm may be said to stop
STEP_SECONDS = 0.05  # of RLBench between two frames
_BETWEEN = 4  # frames after a stop in which there is no other
_STIRS = 0.02  # rad/s above its lowest speed since it stopped: the arm is on its way again, if slowly
_RESTS = 0.1  # of a slow motion's highest speed: it has come to rest


def find_keyframes(gripper_open: np.ndarray, joint_velocities: np.ndarray | None) -> np.ndarray:
    """Frame numbers int64 [T], increasing, >= 1, the last frame among them.

    `gripper_open` [N] is above 0.5 where the gripper is open; `joint_velocities` [N J] are in rad/s.

    A stop is no keyframe if the gripper changes between two frames before and one after it, within four frames of
    another stop, or at the last frame but one. A keyframe right before the last frame is dropped, unless the gripper
    changes between the two.

    Raises:
        InputError: fewer than two frames, or velocities that are missing, not finite or not as many.
    """
    opened = np.asarray(gripper_open, np.float64).reshape(-1) > 0.5
    speed = _speeds(joint_velocities, frames=len(opened))
    changed = np.flatnonzero(opened[1:] != opened[:-1]) + 1
    last = len(opened) - 1
    found = sorted({*changed.tolist(), *_stops(speed, opened), last})
    if found[-2:] == [last - 1, last] and opened[last - 1] == opened[last]:
        del found[-2]
    return np.array(found, np.int64)


def keyframe_actions(gripper_poses: np.ndarray, gripper_open: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Actions float32 [T 8] that lead to these frames, of tip poses [N 7] (x y z in metres, quaternion x y z w).

    Raises:
        InputError: a pose is not finite.
    """
    poses = np.asarray(gripper_poses, np.float64)[frames]
    if not np.isfinite(poses).all():
        raise InputError("gripper poses: found numbers that are not finite; leave this demonstration out")
    opened = np.asarray(gripper_open, np.float64).reshape(-1)[frames] > 0.5
    return np.concatenate([poses[:, :3], canonical_quaternion(poses[:, 3:]), opened[:, None]], axis=1, dtype=np.float32)


def velocities(joint_positions: np.ndarray) -> np.ndarray:
    """Joint velocities [N J] in rad/s of positions [N J] in radians, one frame every `STEP_SECONDS`."""
    positions = np.asarray(joint_positions, np.float64)
    return np.diff(positions, axis=0, prepend=positions[:1]) / STEP_SECONDS


def _speeds(joint_velocities: np.ndarray | None, *, frames: int) -> np.ndarray:
    """The fastest joint's speed at each frame [N]."""
    if frames < 2:
        raise InputError(f"demonstration: found {frames} frames, expected at least 2; leave it out")
    if joint_velocities is None:
        raise InputError("joint_velocities: found none, expected one row a frame; make them from joint_positions")
    given = np.asarray(joint_velocities, np.float64)
    if given.ndim != 2 or len(given) != frames or not given.shape[1]:
        raise InputError(f"joint_velocities: found shape {given.shape}, expected ({frames}, joints)")
    if not np.isfinite(given).all():
        missing = int(np.flatnonzero(~np.isfinite(given).all(axis=1))[0])
        raise InputError(f"joint_velocities: not finite at frame {missing}; make them from joint_positions")
    return np.abs(given).max(axis=1)


def _stops(speed: np.ndarray, opened: np.ndarray) -> list[int]:
    """The frames at which the arm stops and the gripper does not change."""
    stops: list[int] = []
    moving, lowest, highest = False, 0.0, 0.0
    for frame in range(len(speed) - 2):
        now = speed[frame]
        if not moving:
            lowest = min(lowest, now)
            moving, highest = now >= min(STILL, lowest + _STIRS), now
        highest = max(highest, now)
        rests = now < STILL and (highest >= STILL or now <= _RESTS * highest)
        far = not stops or frame > stops[-1] + _BETWEEN
        around = opened[max(frame - 2, 0) : frame + 2]
        if not moving or not rests:
            continue
        if far and (around == opened[frame]).all():
            stops.append(frame)
        elif opened[frame] == opened[max(frame - 1, 0)]:
            continue  # it may still be standing there when a stop counts again
        moving, lowest = False, now
    return stops
