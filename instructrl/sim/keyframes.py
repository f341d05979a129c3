"""Keyframe discovery in dense demonstrations, and the actions that lead to the keyframes.

Keyframes are, as usual, the frames at which the gripper has opened or closed, at which the arm stops, and the last one.
Differences from the usual heuristic:

- Nothing is read before the first frame; the arm is assumed to have been at rest there with an unchanged gripper.
- Demonstrations without joint velocities are refused; `velocities` computes them from joint positions.
- An arm stops only if it has moved since the last keyframe. So an arm at rest gives one keyframe, not one every few
  frames, and none at the start or after a gripper change; and a motion as slow as the threshold gives none on its
  way, but one where it comes to rest.

`peract_keyframes` is the usual heuristic without these differences, for comparisons with what was trained on it.
`path_keyframes` needs no joint velocities: it takes the corners of the path, for trajectories of other robots.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from instructrl.actions import canonical_quaternion
from instructrl.errors import InputError

STEP_SECONDS = 0.05  # between two frames of RLBench


@dataclass(frozen=True)
class StopThresholds:
    """Thresholds for an arm that stops; `restart` and `rest` are those of `find_keyframes` alone."""

    speed: float = 0.1  # rad/s; the arm may count as stopped if all joints are slower
    gap: int = 4  # frames after a stop in which there is no other
    restart: float = 0.02  # rad/s above the lowest speed since the stop: the arm moves again, if slowly
    rest: float = 0.1  # fraction of a slow motion's peak speed below which it has come to rest


STANDARD = StopThresholds()


def find_keyframes(
    gripper_open: np.ndarray, joint_velocities: np.ndarray | None, thresholds: StopThresholds = STANDARD
) -> np.ndarray:
    """Frame indices int64 [T] of the keyframes, increasing, >= 1, the last frame included.

    `gripper_open` [N] is above 0.5 for an open gripper; `joint_velocities` [N J] are in rad/s.

    A stop is no keyframe if the gripper changes between two frames before and one after it, within `thresholds.gap`
    frames of another stop, or at the last frame but one. A keyframe right before the last frame is dropped, unless the
    gripper changes between the two.

    Raises:
        InputError: fewer than two frames, or velocities that are missing, not finite or of another length.
    """
    opened = np.asarray(gripper_open, np.float64).reshape(-1) > 0.5
    speed = _speeds(joint_velocities, frames=len(opened))
    changed = np.flatnonzero(opened[1:] != opened[:-1]) + 1
    last = len(opened) - 1
    found = sorted({*changed.tolist(), *_stops(speed, opened, thresholds), last})
    if found[-2:] == [last - 1, last] and opened[last - 1] == opened[last]:
        del found[-2]
    return np.array(found, np.int64)


def peract_keyframes(
    gripper_open: np.ndarray, joint_velocities: np.ndarray | None, thresholds: StopThresholds = STANDARD
) -> np.ndarray:
    """Frame indices int64 [T] of the keyframes by PerAct's heuristic (Shridhar et al., 2022), for the same arguments.

    An arm at rest stops again whenever the gap is over. The first frame is none, but may be the first stop, from which
    the gap counts. The gripper is compared with one frame after and two before, which are those at the end of the
    demonstration for its first two frames; any difference of `gripper_open` is a change.

    Raises:
        InputError: as `find_keyframes`, or a `gripper_open` that is not finite.
    """
    opened = np.asarray(gripper_open, np.float64).reshape(-1)
    slow = _speeds(joint_velocities, frames=len(opened)) <= thresholds.speed
    if not np.isfinite(opened).all():
        raise InputError("gripper_open: found values that are not finite; leave this demonstration out")
    before = np.roll(opened, 1)
    constant = (opened == np.roll(opened, -1)) & (opened == before) & (before == np.roll(opened, 2))
    last = len(opened) - 1
    stops: list[int] = []
    for frame in np.flatnonzero((slow & constant)[: last - 1]).tolist():
        if not stops or frame > stops[-1] + thresholds.gap:
            stops.append(frame)
    changed = np.flatnonzero(opened[1:] != opened[:-1]) + 1
    found = sorted({*changed.tolist(), *stops, last} - {0})
    if found[-2:] == [last - 1, last]:
        del found[-2]
    return np.array(found, np.int64)


def path_keyframes(positions: np.ndarray, gripper_open: np.ndarray, *, tolerance: float) -> np.ndarray:
    """Frame indices int64 [T] of a path's corners, increasing, >= 1, the last frame included.

    Straight motions between the keyframes stay within `tolerance` metres of the positions [N 3] (the simplification of
    Ramer, 1972, and Douglas and Peucker, 1973). A frame at which the gripper, `gripper_open` [N], has opened or closed
    is always one. Smaller tolerances give more keyframes, those of larger ones not always among them.

    Raises:
        InputError: fewer than two frames, arrays of different lengths, or positions that are not finite.
    """
    opened, path = np.asarray(gripper_open).reshape(-1) > 0.5, np.asarray(positions, np.float64)
    if len(opened) < 2 or path.shape != (len(opened), 3) or not np.isfinite(path).all():
        found = f"{path.shape} positions and {len(opened)} of the gripper"
        raise InputError(f"demonstration: found {found}; expected two finite ones or more, equally many; leave it out")
    changed = (np.flatnonzero(opened[1:] != opened[:-1]) + 1).tolist()
    found_frames, ends = set[int](), [0, *changed, len(opened) - 1]
    parts = list(pairwise(ends))
    while parts:
        first, last = parts.pop()
        found_frames.add(last)
        if last - first < 2:
            continue
        distances = _distances(path[first + 1 : last], path[first], path[last])
        if distances.max() > tolerance:
            corner = first + 1 + int(distances.argmax())
            parts += [(first, corner), (corner, last)]
    return np.array(sorted(found_frames - {0}), np.int64)


class KeptFrames(NamedTuple):
    """Frames [N] to keep of a dense demonstration with T keyframes, int64."""

    frames: np.ndarray  # [N], indices in the demonstration
    keyframes: np.ndarray  # [T], positions of the keyframes among `frames`
    passed: np.ndarray  # [N], number of keyframes up to each frame


def kept_frames(keyframes: np.ndarray, *, every: int | None) -> KeptFrames:
    """The first frame and the `keyframes` [T], and with `every` those between that training may observe.

    These are each frame that many after the keyframe before it, if it is at least half as many before the next one. The
    action to the next keyframe is right at all of them.
    """
    ends = keyframes.tolist()
    found = {0, *ends}
    if every is not None:
        for begin, end in pairwise([0, *ends]):
            found |= {frame for frame in range(begin + every, end, every) if 2 * (end - frame) >= every}
    frames = np.array(sorted(found), np.int64)
    return KeptFrames(frames, np.searchsorted(frames, keyframes), np.searchsorted(keyframes, frames, side="right"))


def keyframe_actions(
    gripper_poses: np.ndarray,
    gripper_open: np.ndarray,
    frames: np.ndarray,
    *,
    ignore_collisions: np.ndarray | None = None,
) -> np.ndarray:
    """Actions float32 [T 8], or [T 9], that lead to these frames.

    Args:
        gripper_poses: poses of the tip [N 7], x y z in metres and quaternion x y z w.
        gripper_open: above 0.5 if it is open [N].
        frames: numbers of frames [T], from 1.
        ignore_collisions: above 0.5 while the expert moves on a path that may collide [N], the actions' ninth number.
            On the way to a keyframe it is that of the frame before it, as in PerAct (agents/peract_bc/launch_utils.py).

    Raises:
        InputError: a pose is not finite.
    """
    poses = np.asarray(gripper_poses, np.float64)[frames]
    if not np.isfinite(poses).all():
        raise InputError("gripper poses: found values that are not finite; leave this demonstration out")
    flags = [np.asarray(gripper_open, np.float64).reshape(-1)[frames] > 0.5]
    if ignore_collisions is not None:
        flags.append(np.asarray(ignore_collisions, np.float64).reshape(-1)[frames - 1] > 0.5)
    parts = [poses[:, :3], canonical_quaternion(poses[:, 3:]), *(flag[:, None] for flag in flags)]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def velocities(joint_positions: np.ndarray) -> np.ndarray:
    """Joint velocities [N J] in rad/s of positions [N J] in radians, one frame every `STEP_SECONDS`."""
    positions = np.asarray(joint_positions, np.float64)
    return np.diff(positions, axis=0, prepend=positions[:1]) / STEP_SECONDS


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The distances [N] of points [N 3] from the straight line between two others."""
    way = end - start
    shares = np.clip((points - start) @ way / max(float(way @ way), 1e-12), 0, 1)
    return np.linalg.norm(points - start - shares[:, None] * way, axis=1)


def _speeds(joint_velocities: np.ndarray | None, *, frames: int) -> np.ndarray:
    """The fastest joint's speed at each frame [N]."""
    if frames < 2:
        raise InputError(f"demonstration: found {frames} frames, expected at least 2; leave it out")
    if joint_velocities is None:
        raise InputError("joint_velocities: found none, expected one row per frame; compute them from joint_positions")
    speeds = np.asarray(joint_velocities, np.float64)
    if speeds.ndim != 2 or len(speeds) != frames or not speeds.shape[1]:
        raise InputError(f"joint_velocities: found shape {speeds.shape}, expected ({frames}, joints)")
    if not np.isfinite(speeds).all():
        missing = int(np.flatnonzero(~np.isfinite(speeds).all(axis=1))[0])
        raise InputError(f"joint_velocities: not finite at frame {missing}; compute them from joint_positions")
    return np.abs(speeds).max(axis=1)


def _stops(speed: np.ndarray, opened: np.ndarray, thresholds: StopThresholds) -> list[int]:
    """The frames at which the arm stops and the gripper does not change."""
    stops: list[int] = []
    moving, lowest, highest = False, 0.0, 0.0
    for frame in range(len(speed) - 2):
        now = speed[frame]
        if not moving:
            lowest = min(lowest, now)
            moving, highest = now >= min(thresholds.speed, lowest + thresholds.restart), now
        highest = max(highest, now)
        at_rest = now < thresholds.speed and (highest >= thresholds.speed or now <= thresholds.rest * highest)
        apart = not stops or frame > stops[-1] + thresholds.gap
        around = opened[max(frame - 2, 0) : frame + 2]
        if not moving or not at_rest:
            continue
        if apart and (around == opened[frame]).all():
            stops.append(frame)
        elif opened[frame] == opened[max(frame - 1, 0)]:
            continue  # it may still be at rest when the minimum gap is over
        moving, lowest = False, now
    return stops
