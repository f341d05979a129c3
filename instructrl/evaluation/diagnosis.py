"""Diagnosis of failed episodes: deviations of actions from the expert's in the same state, and the cause."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from instructrl.actions import rotation_angle
from instructrl.sim import Outcome

# Of the expert's keyframes moved by this much, nearly all still succeed in all tasks: an action within is not the cause
POSITION_TOLERANCE = 1.0  # cm
ROTATION_TOLERANCE = 10.0  # degrees
_NEARER = 2.0  # an action goes to another object if that is nearer than the expert's by this factor


class Cause(StrEnum):
    """The cause of a failed episode."""

    WRONG_OBJECT = "wrong_object"  # the action goes to another object of the scene than the expert's
    POSITION = "position"
    ROTATION = "rotation"
    GRIPPER = "gripper"  # open where the expert closes it, or the reverse
    UNREACHABLE = "unreachable"  # every action was within the tolerances, but the arm could not reach one
    OUT_OF_STEPS = "out_of_steps"  # every action was within the tolerances, but the keyframe limit came first
    OTHER = "other"  # the simulator or an invalid action ended it, or no action was off


_ENDS = {Outcome.UNREACHABLE: Cause.UNREACHABLE, Outcome.TIME_LIMIT: Cause.OUT_OF_STEPS}


@dataclass(frozen=True)
class Deviation:
    """Difference between an agent's action and the expert's in the same state.

    Attributes:
        position_cm: between the two.
        rotation_deg: between the two; of rotations that are equivalent for the expert, to the nearest.
        gripper_wrong: True if the agent opens the gripper where the expert closes it, or the reverse.
        gripper_acts: True if the expert opens or closes the gripper here, after its first action.
        other_cm: from the agent's position to the expert's if it went to the nearest other object; None without one.
    """

    position_cm: float
    rotation_deg: float
    gripper_wrong: bool
    gripper_acts: bool
    other_cm: float | None

    def exceeded(self) -> dict[Cause, float]:
        """Each deviation beyond its tolerance, in multiples of it, the largest first."""
        nearer = self.other_cm is not None and _NEARER * self.other_cm < self.position_cm
        found = {
            Cause.WRONG_OBJECT if nearer else Cause.POSITION: self.position_cm / POSITION_TOLERANCE,
            Cause.ROTATION: self.rotation_deg / ROTATION_TOLERANCE,
        }
        order = sorted(found, key=lambda cause: (cause is not Cause.WRONG_OBJECT, -found[cause]))
        return {cause: found[cause] for cause in order if found[cause] > 1} | (
            {Cause.GRIPPER: 1.0} if self.gripper_wrong else {}
        )


class Diagnosis(NamedTuple):
    """The cause of a failed episode, and the number, from 1, of the action that it begins at; None if none was off."""

    cause: Cause
    keyframe: int | None


def compare(action: np.ndarray, experts: Sequence[np.ndarray], *, before: float | None) -> Deviation:
    """Compare an action [8] with the expert's in the same state.

    Args:
        action: of the agent, valid.
        experts: `OffersExpert.expert_actions()`, not empty.
        before: the gripper of the expert's previous action in this episode; None for the first one.
    """
    own = experts[0]
    others = [float(np.linalg.norm(action[:3] - other[0, :3])) for other in experts[1:]]
    return Deviation(
        position_cm=round(100 * float(np.linalg.norm(action[:3] - own[0, :3])), 3),
        rotation_deg=round(math.degrees(rotation_angle(own[:, 3:7], action[3:7]).min()), 3),
        gripper_wrong=bool(action[7] != own[0, 7]),
        gripper_acts=before is not None and bool(before != own[0, 7]),
        other_cm=round(100 * min(others), 3) if others else None,
    )


def diagnose(outcome: Outcome, deviations: Sequence[Deviation]) -> Diagnosis:
    """The cause of a failed episode.

    An action may be off without harm, if a later one makes it good. So the one that counts is the first that is off
    where the expert or the agent moves the gripper, or at the end; without such, the one that is off the most. Its
    largest deviation is the cause. It begins at the first of the actions right before it that share it, where it is at
    least half as large.

    Args:
        outcome: of the episode, not a success.
        deviations: of its actions, in order, as far as the expert has actions.
    """
    exceeded = [deviation.exceeded() for deviation in deviations]
    off = [index for index, found in enumerate(exceeded) if found]
    if not off:
        return Diagnosis(_ENDS.get(outcome, Cause.OTHER), None)
    last = len(deviations) - 1
    decisive = [
        index for index in off if index == last or deviations[index].gripper_acts or deviations[index].gripper_wrong
    ]
    index = decisive[0] if decisive else max(off, key=lambda one: max(exceeded[one].values()))
    cause = next(iter(exceeded[index]))
    least = exceeded[index][cause] / 2
    while index > 0 and exceeded[index - 1].get(cause, 0.0) >= least:
        index -= 1
    return Diagnosis(cause, index + 1)
