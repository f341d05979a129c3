"""Meta-World's experts, which close the loop at every step, turned into keyframes.

An expert plays once, and what it commands is a path. Its corners are keyframes: few of them first, then more, until
they succeed when they are executed in the same scene. What an expert commands is kept, not what the hand reached: the
difference is the force with which it pulls or pushes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from instructrl.sim.keyframes import path_keyframes
from instructrl.sim.metaworld.library import Scene
from instructrl.types import ACTION_SIZE

ROTATION = (0.0, 1.0, 0.0, 0.0)  # x y z w of the tip, which always points down: z; the fingers move along y
NO_ACTIONS = np.zeros((0, ACTION_SIZE), np.float32)
STEPS_AFTER_SUCCESS = 20  # so that the last keyframe lies well within what counts as success
TOLERANCES = (0.04, 0.02, 0.01, 0.005)  # metres from the path, from few keyframes to many
# Experts close the gripper on their way to an object, so that it is closed there. A keyframe closes it at its end: the
# command counts from so many steps later, tried in this order.
CLOSING_DELAYS = (10, 0, 20, 5, 30)


class Path(NamedTuple):
    """Commands of an expert at each of N steps."""

    positions: np.ndarray  # [N 3]: to which the hand is drawn, metres
    closed: np.ndarray  # [N], bool: the gripper


def expert_path(scene: Scene) -> Path | None:
    """Let the expert play in a scene that has begun; None if it fails."""
    positions, closed, left = [], [], None
    while scene.steps_left and left != 0:
        done, effort = scene.expert_step()
        positions.append(scene.target())
        closed.append(effort > 0)
        if done and left is None:
            left = STEPS_AFTER_SUCCESS
        elif left is not None:
            left -= 1
    return None if left is None else Path(np.array(positions), np.array(closed))


def candidates(path: Path) -> Iterator[np.ndarray]:
    """Keyframe actions float32 [T 8] that follow a path, from few to many."""
    seen: set[bytes] = set()
    for tolerance in TOLERANCES:
        for delay in CLOSING_DELAYS:
            closed = delayed(path.closed, delay)
            frames = path_keyframes(path.positions, ~closed, tolerance=tolerance)
            actions = np.empty((len(frames), ACTION_SIZE), np.float32)
            actions[:, :3], actions[:, 3:7], actions[:, 7] = path.positions[frames], ROTATION, ~closed[frames]
            if actions.tobytes() not in seen:
                seen.add(actions.tobytes())
                yield actions


def delayed(closed: np.ndarray, steps: int) -> np.ndarray:
    """A gripper [N] that closes so many steps later, and opens at once."""
    since = np.arange(len(closed)) - np.maximum.accumulate(np.where(closed, -1, np.arange(len(closed))))
    return closed & (since > steps)
