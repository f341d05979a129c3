import numpy as np

from rlbench.backend.exceptions import InvalidActionError


class GripperActionMode:
    pass


class Discrete(GripperActionMode):
    def __init__(self, attach_grasped_objects: bool = True, detach_before_open: bool = True):
        pass

    def action(self, scene, action: np.ndarray):
        if np.shape(action) != (1,):
            raise InvalidActionError(f"Expected the action shape to be: (1,), but was shape: {np.shape(action)}")
        scene.opened = float(action[0] > 0.5)

    def action_shape(self, scene) -> tuple:
        return (1,)
