"""Execution of keyframes: a servo draws the hand to a position, then works the gripper.

The hand follows a target through a spring, as in Meta-World's own steps, which these are. So an action is the position
to which the hand is drawn, not the one that it reaches: behind a handle that resists, it pulls.
"""

from collections.abc import Callable

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.metaworld.library import STEP_METRES, Scene

SETTLE_STEPS = 5  # after the target has arrived, in which the hand follows
GRIPPER_STEPS = 12  # in which the fingers close or open
DENSE_STEPS = 5  # of a dense action
OPEN, CLOSED = -1.0, 1.0  # efforts of the gripper


class Motion:
    """Executes the keyframes of one episode."""

    def __init__(self, scene: Scene):
        self._scene, self._effort = scene, OPEN
        self.on_step: Callable[[], None] | None = None  # called after each step

    def begin(self) -> None:
        """Start an episode, with an open gripper."""
        self._effort = OPEN

    def execute(self, position: np.ndarray, *, opened: bool) -> Outcome | None:
        """Move to a position [3], or the nearest within reach, then open or close the gripper.

        Returns:
            SUCCESS as soon as Meta-World counts the task as done, TIME_LIMIT at the end of its steps, else None.
        """
        goal, arrived = self._scene.within_reach(position), False
        while not arrived:
            arrived = bool(np.abs(goal - self._scene.target()).max() <= STEP_METRES)
            outcome = self._run(goal, steps=1)
            if outcome is not None:
                return outcome
        outcome = self._run(goal, steps=SETTLE_STEPS)
        effort = OPEN if opened else CLOSED
        if outcome is None and effort != self._effort:
            self._effort = effort
            outcome = self._run(goal, steps=GRIPPER_STEPS)
        return outcome

    def servo(self, position: np.ndarray, *, opened: bool) -> Outcome | None:
        """Draw the hand towards a position [3], and work the gripper, for `DENSE_STEPS`; outcomes as of `execute`."""
        self._effort = OPEN if opened else CLOSED
        return self._run(self._scene.within_reach(position), steps=DENSE_STEPS)

    def _run(self, goal: np.ndarray, *, steps: int) -> Outcome | None:
        for _ in range(steps):
            if not self._scene.steps_left:
                return Outcome.TIME_LIMIT
            done = self._scene.step(goal, effort=self._effort)
            if self.on_step is not None:
                self.on_step()
            if done:
                return Outcome.SUCCESS
        return None
