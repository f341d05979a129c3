"""Hang up the phone: put the handset across the cradle of its base."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, pick, scatter, wrap_angle
from instructrl.sim.tabletop.world import World

_BAR = np.array([0.064, 0.012, 0.009])  # metres, half sizes of the handset's bar, whose centre is its origin
_EAR, _BELOW = 0.021, 0.026  # radius of its two ends, and how far they extend below it
_CRADLE = 0.061  # height of the cradle that supports the bar, at the centre of the base's frame
_RESTS = _CRADLE + _BAR[2]
_LOW, _HIGH = np.array([0.04, -0.30]), np.array([0.38, 0.30])
_APART = 0.23
_ABOVE, _GRASP = 0.13, 0.003
_SLACK = np.array([0.020, 0.018, 0.008])  # tolerances along, across and above the handset's position


class PhoneOnBase(Task):
    """The base and the handset on the table, each at a random yaw."""

    variations = 1
    max_steps = 7
    graspable = ("phone",)
    templates = (
        "put the phone on its base",
        "hang up the telephone",
        "place the handset on the phone base",
        "pick the phone up and lay it back on the base",
        "put the receiver of the telephone down on its base",
    )
    held_out_templates = (
        "lay the handset on its base",
        "hang up the receiver of the phone",
    )

    def bodies(self) -> str:
        ends = "".join(
            f'<geom class="object" type="cylinder" pos="{x} 0 -.010" size="{_EAR} {_BELOW - 0.010}" '
            'rgba=".10 .10 .11 1"/>'
            for x in (-0.062, 0.062)
        )
        size = " ".join(map(str, _BAR))
        return f"""
        {_base_xml()}
        <body name="phone"><freejoint/>{ends}
          <geom class="object" type="box" size="{size}" rgba=".13 .13 .14 1"/>
        </body>"""

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        points = scatter(rng, 2, low=_LOW, high=_HIGH, apart=_APART)
        if points is None:
            return None
        for name, point, height in zip(("phone", "cradle"), points, (_BELOW, 0.0), strict=True):
            world.place(name, np.array([*point, TABLE_Z + height]), yaw=rng.uniform(-np.pi, np.pi))
        return {variation: "phone"}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        taken = world.position(goal_object) + (0.0, 0.0, _GRASP)
        laid = world.position("cradle") + (0.0, 0.0, _RESTS + _GRASP + 0.003)
        turned, turn = (
            wrap_angle(world.yaw(name), np.pi) for name in (goal_object, "cradle")
        )  # its ends are identical
        return [
            *pick(taken, above=_ABOVE, lift=_ABOVE, yaw=turned),
            downward(laid + (0.0, 0.0, _ABOVE), yaw=turn, gripper=CLOSED),
            downward(laid, yaw=turn, gripper=OPEN),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        base, phone = world.rotation("cradle"), world.rotation(goal_object)
        off = (world.position(goal_object) - world.position("cradle")) @ base - (0.0, 0.0, _RESTS)
        along = abs(phone[:, 0] @ base[:, 0]) > np.cos(np.radians(15))
        return Outcome.SUCCESS if world.held() is None and along and (np.abs(off) < _SLACK).all() else None

    def describe(self, variation: int) -> dict[str, str]:
        return {}


def _base_xml() -> str:
    """A low box with twelve keys in front and a cradle with four prongs behind them."""
    red, dark = ".78 .10 .09 1", ".60 .06 .06 1"
    keys = "".join(
        f'<geom class="marker" type="box" pos="{x} {y} .008" size=".0075 .0055 .003" rgba=".97 .96 .92 1"/>'
        for x in (-0.022, 0.0, 0.022)
        for y in (-0.024, -0.008, 0.008, 0.024)
    )
    prongs = "".join(
        f'<geom class="prop" type="box" pos="{x} {y} {_CRADLE}" size=".006 .004 .012" rgba="{dark}"/>'
        for x in (-0.028, 0.028)
        for y in (-0.027, 0.027)
    )
    return f"""
    <body name="cradle" mocap="true">{prongs}
      <geom class="prop" type="box" pos="0 -.038 .014" size=".068 .078 .014" rgba="{red}"/>
      <geom class="prop" type="box" pos="0 0 {_CRADLE / 2}" size=".034 .031 {_CRADLE / 2}" rgba="{dark}"/>
      <frame pos="0 -.070 .027" euler=".22 0 0">
        <geom class="prop" type="box" size=".060 .037 .007" rgba="{red}"/>
        <geom class="marker" type="box" pos="0 0 .007" size=".036 .033 .0015" rgba=".14 .14 .15 1"/>{keys}
      </frame>
    </body>"""
