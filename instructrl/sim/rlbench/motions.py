"""Execution of keyframe actions by RLBench's planned motions, as an evaluation protocol chooses.

Sources of the choices: PerAct's environment (helpers/custom_rlbench_env.py) ends an episode at the first planning
error; RVT (rvt/utils/rlbench_planning.py) first moves a target onto the boundary of the workspace; HiveFormer's Mover
(core/environments.py) moves with the gripper as it was until it is within 5 cm of its target, then opens or closes it
in a second motion, and goes on where the task can no longer succeed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from instructrl.actions import check_action
from instructrl.config.evaluation import RLBenchProtocol
from instructrl.errors import InputError
from instructrl.sim.env import Outcome
from instructrl.sim.rlbench.outcomes import action_failure
from instructrl.types import ACTION_SIZE, ACTION_SIZES

ARRIVED = 0.05  # metres between the gripper and its target
_ENDS = ("min", "max")
_MARGIN = 1e-7  # metres inside of the workspace, whose boundary itself is refused


class Motions:
    """Executes actions; `choices` are those of the protocol."""

    def __init__(self, step: Callable[[np.ndarray], tuple[Any, float, bool]], *, takes_collisions: bool, attempts: int):
        """Keep RLBench's `step`.

        Args:
            step: executes 8 numbers, or 9 with whether to ignore collisions; gives observation, reward and terminate.
            takes_collisions: True if it takes 9.
            attempts: planning attempts for each motion if the protocol leaves them open.
        """
        self.choices = RLBenchProtocol()
        self.observation: Any = None  # the latest
        self._step, self._takes_collisions, self._attempts = step, takes_collisions, attempts
        self._opened: bool | None = None  # by the latest action

    def begin(self, observation: Any) -> None:
        """Begin an episode."""
        self.observation, self._opened = observation, None

    def execute(self, action: np.ndarray) -> Outcome | None:
        """Execute an action [8], or [9]; returns an outcome if it ends the episode, or was not executed."""
        try:
            target = check_action(action, sizes=ACTION_SIZES if self._takes_collisions else (ACTION_SIZE,))
        except InputError:
            return Outcome.INVALID_ACTION
        if self._takes_collisions and len(target) == ACTION_SIZE:
            target = np.append(target, float(self.choices.ignore_collisions))
        opened = bool(target[7] > 0.5)
        changes_later = self.choices.separate_gripper and self._opened not in (None, opened)
        first = target.copy()
        first[7] = float(opened != changes_later)
        outcome = self._approach(first)
        if outcome is None and changes_later:
            outcome = self._move(target)
        self._opened = opened
        return outcome

    def _approach(self, target: np.ndarray) -> Outcome | None:
        """Move until the gripper has arrived, as often as the protocol allows."""
        for _ in range(self.choices.motion_attempts):
            outcome = self._move(target)
            distance = np.linalg.norm(np.asarray(self.observation.gripper_pose)[:3] - target[:3])
            if outcome is not None or distance < ARRIVED:
                break
        return outcome

    def _move(self, target: np.ndarray) -> Outcome | None:
        """Execute one motion, planned as often as the protocol allows."""
        for remaining in reversed(range(self.choices.planner_attempts or self._attempts)):
            try:
                self.observation, reward, terminated = self._step(target)
            except Exception as error:
                outcome, retry = action_failure(error)
                if not (retry and remaining):
                    return outcome
            else:
                if reward >= 1:
                    return Outcome.SUCCESS
                return Outcome.FAILURE if terminated and self.choices.failure_ends else None
        raise AssertionError


def clipping(planning: Any, is_on: Callable[[], bool]) -> Any:
    """A subclass of a class of planned motions that moves targets onto the boundary of RLBench's workspace."""

    class Clipping(planning):  # type: ignore[misc]  # RLBench has no types
        def action(self, scene: Any, action: np.ndarray, *given: Any) -> None:
            if is_on():
                low, high = (np.array([getattr(scene, f"_workspace_{end}{axis}") for axis in "xyz"]) for end in _ENDS)
                action = np.append(np.clip(action[:3], low + _MARGIN, high - _MARGIN), action[3:])
            super().action(scene, action, *given)

    return Clipping
