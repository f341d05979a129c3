import faults
import numpy as np
from rlbench.action_modes.motion import move


class ArmActionMode:
    def action_shape(self, scene) -> tuple:
        return (7,)


class EndEffectorPoseViaPlanning(ArmActionMode):
    def __init__(self, absolute_mode=True, frame="world", collision_checking=False):
        if frame not in ["world", "end effector"]:
            raise ValueError("Expected frame to one of: 'world, 'end effector'")
        self._absolute_mode, self._frame = absolute_mode, frame

    def action(self, scene, action: np.ndarray, ignore_collisions=True):
        faults.log(f"ignore_collisions {ignore_collisions}")
        move(scene.world, action, world_frame=self._frame == "world")
