"""The embedded simulator with dense actions: poses of the tip, one every tenth of a second."""

from typing import Any

import numpy as np

from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.motion import MotionResult

_ACTIONS_PER_KEYFRAME = 15  # in the limit of an episode; the experts need 6 on average


class DenseTabletop(Tabletop):
    """One tabletop task in which an action draws the arm towards a pose and the outcome is checked after each."""

    expert_actions: Any = None  # offers no expert (see `OffersExpert`): its path is that from the start

    def __init__(self, task: str, **options: Any):
        """Compile the task's world; the options are those of `Tabletop`."""
        super().__init__(task, **options)
        self.max_steps = _ACTIONS_PER_KEYFRAME * self._task.max_steps

    def _plan(self) -> list[np.ndarray]:
        return self._motion.trajectory(super()._plan())

    def _move(self, action: np.ndarray) -> MotionResult:
        return self._motion.servo(action)
