import os
from enum import Enum

import faults
import numpy as np

from rlbench.backend.exceptions import InvalidActionError
from rlbench.backend.scene import HIGH, LOW


class RelativeFrame(Enum):
    WORLD = 0
    EE = 1


PERACT = os.environ.get("FAKE_RLBENCH_VARIANT") == "peract"


class ArmActionMode:
    def action_shape(self, scene) -> tuple:
        return (7,)


class EndEffectorPoseViaPlanning(ArmActionMode):
    if PERACT:

        def __init__(self, absolute_mode: bool = True, frame: str = "world", collision_checking: bool = False):
            if frame not in ["world", "end effector"]:
                raise ValueError("Expected frame to one of: 'world, 'end effector'")
            self._absolute_mode, self._world = absolute_mode, frame == "world"

    else:

        def __init__(
            self,
            absolute_mode: bool = True,
            frame: RelativeFrame = RelativeFrame.WORLD,
            collision_checking: bool = False,
        ):
            self._absolute_mode, self._world = absolute_mode, frame == RelativeFrame.WORLD

    def _move(self, scene, action):
        if np.shape(action) != (7,):
            raise InvalidActionError(f"Expected the action shape to be: (7,), but was shape: {np.shape(action)}")
        if not np.isclose(np.linalg.norm(action[3:]), 1.0):
            raise InvalidActionError("Action contained non unit quaternion!")
        if not self._world:  # also for a frame that is none: a silent error of the original
            action = np.concatenate([action[:3] + scene.tip[:3], action[3:]])
        if (action[:3] < LOW).any() or (action[:3] > HIGH).any():
            raise InvalidActionError("A path could not be found because the target is outside of workspace.")
        faults.strike("step", scene.variation)
        scene.tip = np.array(action, np.float64)

    if PERACT:

        def action(self, scene, action: np.ndarray, ignore_collisions: bool = True):
            assert ignore_collisions is True
            self._move(scene, action)

    else:

        def action(self, scene, action: np.ndarray):
            self._move(scene, action)
