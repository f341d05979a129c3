"""Planned motions, for both variants."""

import faults
import numpy as np
from world import HIGH, LOW

from rlbench.backend.exceptions import InvalidActionError


def move(world, action: np.ndarray, *, world_frame: bool):
    if np.shape(action) != (7,):
        raise InvalidActionError(f"Expected the action shape to be: (7,), but was shape: {np.shape(action)}")
    if not np.isclose(np.linalg.norm(action[3:]), 1.0):
        raise InvalidActionError("Action contained non unit quaternion!")
    if not world_frame:
        action = np.concatenate([action[:3] + world.tip[:3], action[3:]])
    if (action[:3] <= LOW).any() or (action[:3] >= HIGH).any():
        raise InvalidActionError("A path could not be found because the target is outside of workspace.")
    faults.strike("step", world._variation_index)
    world.tip = np.array(action, np.float64)
    world.tip[2] += 0.08 * faults.strike("short", world._variation_index)  # metres from its target
