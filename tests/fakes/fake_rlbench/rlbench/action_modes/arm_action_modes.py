from enum import Enum

import numpy as np

from rlbench.action_modes.motion import move


class RelativeFrame(Enum):
    WORLD = 0
    EE = 1


class ArmActionMode:
    def action_shape(self, scene) -> tuple:
        return (7,)


class EndEffectorPoseViaPlanning(ArmActionMode):
    def __init__(self, absolute_mode=True, frame=RelativeFrame.WORLD, collision_checking=False):
        self._absolute_mode, self._frame = absolute_mode, frame

    def action(self, scene, action: np.ndarray):
        # a frame that is none counts as the gripper's, without an error
        move(scene.world, action, world_frame=self._frame == RelativeFrame.WORLD)
