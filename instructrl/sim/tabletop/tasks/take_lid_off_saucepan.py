"""Grasp the knob of a saucepan's lid and lift the lid off."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import rod
from instructrl.sim.tabletop.task import Task, pick
from instructrl.sim.tabletop.world import World

_RADIUS, _HEIGHT = 0.085, 0.085  # metres, of the pan
_LID, _KNOB = 0.008, 0.030  # half the lid's thickness; from its centre to that of the knob
_LOW, _HIGH = np.array([0.06, -0.28]), np.array([0.38, 0.28])
_ABOVE, _LIFT = 0.10, 0.20
_OFF = 0.10  # metres that the lid must rise


class TakeLidOffSaucepan(Task):
    """A covered saucepan at a random yaw."""

    variations = 1
    max_steps = 5
    graspable = ("lid",)
    templates = (
        "take the lid off the saucepan",
        "lift the lid from the pan",
        "grasp the knob of the lid and lift it off the saucepan",
        "uncover the saucepan",
        "remove the lid from the pan",
    )
    held_out_templates = (
        "lift the lid off the pan",
        "remove the lid from the saucepan",
    )

    def bodies(self) -> str:
        steel, dark, soup = ".74 .76 .80", ".16 .17 .19", ".85 .25 .08"
        pan = (
            rod((0, 0, 0), (0, 0, _HEIGHT), _RADIUS, steel),
            rod((0, 0, _HEIGHT - 0.0008), (0, 0, _HEIGHT + 0.0008), _RADIUS - 0.006, soup, kind="marker"),
            rod((_RADIUS - 0.004, 0, _HEIGHT - 0.02), (_RADIUS + 0.15, 0, _HEIGHT), 0.012, dark),
        )
        lid = (
            rod((0, 0, -_LID), (0, 0, _LID), _RADIUS + 0.003, ".06 .12 .98", kind="object"),
            rod((0, 0, 0), (0, 0, _LID + 0.004), _RADIUS - 0.025, ".05 .52 1", kind="marker"),
            rod((0, 0, 0), (0, 0, _KNOB), 0.009, dark, kind="marker"),
            rod((0, 0, _KNOB - 0.016), (0, 0, _KNOB + 0.016), 0.017, dark, kind="object"),
        )
        return (
            f'<body name="saucepan" mocap="true">{"".join(pan)}</body>'
            f'<body name="lid"><freejoint/>{"".join(lid)}</body>'
        )

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        point, yaw = rng.uniform(_LOW, _HIGH), rng.uniform(-np.pi, np.pi)
        world.place("saucepan", np.array([*point, TABLE_Z]), yaw=yaw)
        world.place("lid", np.array([*point, TABLE_Z + _HEIGHT + _LID]), yaw=yaw)
        return {variation: "lid"}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        knob = world.position(goal_object) + (0.0, 0.0, _KNOB)
        return pick(knob, above=_ABOVE, lift=_LIFT)

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        rise = world.position(goal_object)[2] - world.position("saucepan")[2] - _HEIGHT - _LID
        return Outcome.SUCCESS if world.held() == goal_object and rise > _OFF else None

    def describe(self, variation: int) -> dict[str, str]:
        return {}
