"""Grasp the cup of the named colour and lift it off the table; a cup of another colour is a distractor."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import Task, pick, scatter, wrap_angle
from instructrl.sim.tabletop.world import World

_CUPS = ("cup0", "cup1")
_PARTS = ("wall", "handle", "upper", "lower")  # coloured parts
_RADIUS, _HALF = 0.030, 0.0425  # metres; half the height
_GRASP = 0.014  # metres above the middle
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.40, 0.32])
_APART = 0.15
_ABOVE, _LIFT = 0.14, 0.20
_LIFTED = 2 * _HALF  # metres that the cup must rise, clear of its initial volume


class PickUpCup(Task):
    """Two cups on the table at random yaws."""

    variations = len(COLOR_NAMES)
    max_steps = 5
    graspable = _CUPS
    templates = (
        "pick up the {color} cup",
        "grasp the {color} mug and lift it",
        "lift the {color} cup off the table",
        "take hold of the {color} cup and raise it",
        "pick the {color} mug up from the table",
    )
    held_out_templates = (
        "grasp the {color} cup and lift it off the table",
        "take the {color} mug and raise it",
    )

    def bodies(self) -> str:
        return "".join(_cup_xml(name) for name in _CUPS)

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        points = scatter(rng, len(_CUPS), low=_LOW, high=_HIGH, apart=_APART)
        other = (variation + int(rng.integers(1, self.variations))) % self.variations
        if points is None:
            return None
        goal_objects = {variation: _CUPS[0], other: _CUPS[1]}
        for (color, name), point in zip(goal_objects.items(), points, strict=True):
            for part in _PARTS:
                world.color(f"{name}_{part}", COLORS[COLOR_NAMES[color]])
            world.place(name, np.array([*point, TABLE_Z + _HALF]), yaw=rng.uniform(-np.pi, np.pi))
        return goal_objects

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        yaw = wrap_angle(world.yaw(goal_object), np.pi)  # the fingers close beside the handle, in either direction
        grasp = world.position(goal_object) + (0.0, 0.0, _GRASP)
        return pick(grasp, above=_ABOVE, lift=_LIFT, yaw=yaw)

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        held = world.held()
        if held is None or world.position(held)[2] < TABLE_Z + _HALF + _LIFTED:
            return None
        return Outcome.SUCCESS if held == goal_object else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {"color": COLOR_NAMES[variation]}


def _cup_xml(name: str) -> str:
    """A solid cylinder with a dark top instead of a hollow; only the outer bar of its handle is solid."""
    out, reach = _RADIUS - 0.002, _RADIUS + 0.020
    return f"""
    <body name="{name}"><freejoint/>
      <geom name="{name}_wall" class="object" type="cylinder" size="{_RADIUS} {_HALF}"/>
      <geom class="marker" type="cylinder" pos="0 0 {_HALF}" size="{_RADIUS - 0.005} .0006" rgba=".20 .18 .17 1"/>
      <geom name="{name}_handle" class="object" type="capsule" fromto="{reach} 0 -.018 {reach} 0 .018" size=".0055"
        mass="0"/>
      <geom name="{name}_upper" class="marker" type="capsule" fromto="{out} 0 .022 {reach} 0 .018" size=".0055"/>
      <geom name="{name}_lower" class="marker" type="capsule" fromto="{out} 0 -.022 {reach} 0 -.018" size=".0055"/>
    </body>"""
