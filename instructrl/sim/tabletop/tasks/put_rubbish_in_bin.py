"""Drop the crumpled paper into the bin, but neither of the two tomatoes."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import HIDDEN_GROUP, TABLE_Z
from instructrl.sim.tabletop.task import OPEN, Task, downward, pick, scatter
from instructrl.sim.tabletop.world import World

_THINGS = ("rubbish", "tomato0", "tomato1")
_PAPER, _TOMATO = 0.026, (0.026, 0.022)  # metres: radius; radius and half height
_INSIDE, _HEIGHT = 0.064, 0.125  # inner radius of the bin, height of its rim
_SIDES, _FLARE = 8, np.radians(4.0)
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.40, 0.32])
_APART, _FROM_BIN = 0.10, 0.20
_ABOVE, _LIFT = 0.12, 0.22


class PutRubbishInBin(Task):
    """A bin, and on the table rubbish and two tomatoes at interchangeable positions."""

    variations = 1
    max_steps = 6
    graspable = _THINGS
    distractors = _THINGS[1:]
    templates = (
        "put the rubbish in the bin",
        "throw the crumpled paper into the bin",
        "pick up the rubbish and drop it in the trash bin",
        "drop the paper into the bin and leave the tomatoes",
        "throw the rubbish away",
    )
    held_out_templates = (
        "throw the rubbish into the trash",
        "pick up the crumpled paper and put it in the bin",
    )

    def bodies(self) -> str:
        return _paper_xml() + "".join(_tomato_xml(name) for name in _THINGS[1:]) + _bin_xml()

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        points = scatter(rng, len(_THINGS), low=_LOW, high=_HIGH, apart=_APART)
        middle = rng.uniform(_LOW, _HIGH)
        if points is None or np.linalg.norm(points - middle, axis=1).min() < _FROM_BIN:
            return None
        for name, point in zip(_THINGS, points, strict=True):
            height = _PAPER if name == _THINGS[0] else _TOMATO[1]
            world.place(name, np.array([*point, TABLE_Z + height]), yaw=rng.uniform(-np.pi, np.pi))
        world.place("bin", np.array([*middle, TABLE_Z]), yaw=rng.uniform(-np.pi / _SIDES, np.pi / _SIDES))
        return {variation: _THINGS[0]}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        lying, over = world.position(goal_object), world.position("bin") + (0.0, 0.0, _HEIGHT + 0.06)
        return [
            *pick(lying, above=_ABOVE, lift=_LIFT),
            downward(over, gripper=OPEN),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        inside = [name for name in _THINGS if _in_bin(world, name)]
        if not inside:
            return None
        return Outcome.SUCCESS if inside == [goal_object] else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {}


def _in_bin(world: World, name: str) -> bool:
    x, y, z = world.position(name) - world.position("bin")
    return bool(np.hypot(x, y) < _INSIDE and z < _HEIGHT - _PAPER)


def _paper_xml() -> str:
    """Crumpled paper: collides as a ball, rendered as intersecting rotated cubes whose edges are the creases."""
    creases = "".join(
        f'<geom class="marker" type="box" size=".0158 .0158 .0158" euler="{turn}" rgba="{shade}"/>'
        for turn, shade in (
            (".5 .2 .1", ".97 .97 .94 1"),
            ("-.3 .9 .6", ".80 .80 .77 1"),
            ("1.1 -.4 1.3", ".90 .90 .87 1"),
        )
    )
    return f"""
    <body name="rubbish"><freejoint/>{creases}
      <geom class="object" type="sphere" size="{_PAPER}" condim="6" friction=".8 .01 .003" group="{HIDDEN_GROUP}"/>
    </body>"""


def _tomato_xml(name: str) -> str:
    radius, half = _TOMATO
    leaves = "".join(
        f'<geom class="marker" type="ellipsoid" pos="0 0 {half - 0.001}" size=".015 .0035 .003" '
        f'euler="0 0 {turn}" rgba=".16 .45 .10 1"/>'
        for turn in (0.0, 1.05, 2.1)
    )
    return f"""
    <body name="{name}"><freejoint/>{leaves}
      <geom class="object" type="ellipsoid" size="{radius} {radius} {half}" condim="6" friction=".8 .01 .003"
        rgba=".88 .13 .06 1"/>
      <geom class="marker" type="capsule" fromto="0 0 {half} 0 0 {half + 0.006}" size=".002" rgba=".16 .45 .10 1"/>
    </body>"""


def _bin_xml() -> str:
    """Flaring walls around a bottom, with a lighter rim and base."""
    gray, rim = ".24 .30 .38 1", ".44 .50 .58 1"
    slant, side = _HEIGHT / 2 / np.cos(_FLARE), np.tan(np.pi / _SIDES)
    width, foot = (_INSIDE + _HEIGHT * np.tan(_FLARE) + 0.003) * side, _INSIDE / np.cos(np.pi / _SIDES) + 0.006
    walls = "".join(
        f'<frame euler="0 0 {number * 2 * np.pi / _SIDES}"><frame pos="{_INSIDE} 0 0" euler="0 {_FLARE} 0">'
        f'<geom class="prop" type="box" pos="0 0 {slant}" size=".0025 {(width + _INSIDE * side) / 2} {slant}" '
        f'rgba="{gray}"/>'
        f'<geom class="marker" type="box" pos="0 0 {2 * slant}" size=".005 {width + 0.002} .004" rgba="{rim}"/>'
        f"</frame></frame>"
        for number in range(_SIDES)
    )
    return f"""
    <body name="bin" mocap="true">{walls}
      <geom class="prop" type="cylinder" pos="0 0 .004" size="{foot} .004" rgba="{rim}"/>
    </body>"""
