"""Rules by which a conversion chooses keyframes, and the words in which a file records the chosen one."""

from dataclasses import asdict, dataclass

import numpy as np

from instructrl.errors import InputError, format_value
from instructrl.sim.keyframes import STANDARD, StopThresholds, find_keyframes, peract_keyframes

THRESHOLDS = {"default": ("speed", "gap", "restart", "rest"), "peract": ("speed", "gap"), "every": ()}  # of each rule
UNITS = {"speed": " rad/s", "gap": " frames", "restart": " rad/s", "rest": ""}


@dataclass(frozen=True)
class KeyframeRule:
    """A rule and its thresholds: default (`find_keyframes`), peract (`peract_keyframes`), or every frame."""

    name: str = "default"
    thresholds: StopThresholds = STANDARD

    def __str__(self) -> str:
        values = asdict(self.thresholds)
        return ", ".join([self.name, *(f"stop_{key} {values[key]:g}{UNITS[key]}" for key in THRESHOLDS[self.name])])

    @property
    def needs_velocities(self) -> bool:
        """True if the rule depends on the motion of the joints."""
        return self.name != "every"

    def find(self, gripper_open: np.ndarray, joint_velocities: np.ndarray | None) -> np.ndarray:
        """Frame indices int64 [T] of the keyframes, increasing, >= 1.

        Raises:
            InputError: fewer than two frames, or numbers that the rule needs and cannot use.
        """
        if self.needs_velocities:
            find = peract_keyframes if self.name == "peract" else find_keyframes
            return find(gripper_open, joint_velocities, self.thresholds)
        if len(gripper_open) < 2:
            raise InputError(f"demonstration: found {len(gripper_open)} frames, expected at least 2; leave it out")
        return np.arange(1, len(gripper_open), dtype=np.int64)


def keyframe_rule(name: str, **chosen: float | None) -> KeyframeRule:
    """The rule with the given thresholds; None stands for the standard one.

    Raises:
        InputError: a threshold is given that the rule does not have.
    """
    given = {key: value for key, value in chosen.items() if value is not None}
    for key, value in given.items():
        if key not in THRESHOLDS[name]:
            rules = " and ".join(f"keyframes={rule}" for rule, keys in THRESHOLDS.items() if key in keys)
            raise InputError(
                f"stop_{key}: found {format_value(value)} with keyframes={name}; allowed only with {rules}"
            )
    return KeyframeRule(name, StopThresholds(**{**asdict(STANDARD), **given}))
