import numpy as np

from rlbench.backend.exceptions import InvalidActionError


class GripperActionMode:
    def action_shape(self, scene) -> tuple:
        raise NotImplementedError


class Discrete(GripperActionMode):
    def __init__(self, attach_grasped_objects=True, detach_before_open=True):
        pass

    def action(self, scene, action: np.ndarray):
        if np.shape(action) != (1,):
            raise InvalidActionError(f"Expected the action shape to be: (1,), but was shape: {np.shape(action)}")
        scene.world.opened = float(action[0] > 0.5)

    def action_shape(self, scene) -> tuple:
        return (1,)
