"""Grasp the umbrella by its curved handle and lift it out of the stand."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import Task, pick, wrap_angle
from instructrl.sim.tabletop.world import World

_WIDTH, _HEIGHT, _FLOOR = 0.050, 0.150, 0.006  # metres: half the stand's width, its height, the thickness of its bottom
_HOLE = 0.026  # half the width of the opening
_HOOK = (  # curve of the handle: offset from the shaft, height above the umbrella's tip
    (0.000, 0.285),
    (0.000, 0.325),
    (0.011, 0.341),
    (0.035, 0.341),
    (0.046, 0.325),
    (0.046, 0.303),
)
_GRASP = np.array([0.023, 0.0, 0.338])  # in the umbrella's frame, whose origin is its tip
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.36, 0.32])
_ABOVE, _LIFT = 0.11, 0.19


class TakeUmbrellaOutOfUmbrellaStand(Task):
    """A closed umbrella upright in a stand, at a random yaw."""

    variations = 1
    max_steps = 5
    graspable = ("umbrella",)
    templates = (
        "take the umbrella out of the umbrella stand",
        "grasp the umbrella by its handle and lift it out of the stand",
        "pull the umbrella up out of its stand",
        "remove the umbrella from the stand",
        "lift the umbrella until it is out of the umbrella stand",
    )
    held_out_templates = (
        "grasp the handle of the umbrella and pull it out of the stand",
        "remove the umbrella from its umbrella stand",
    )

    def bodies(self) -> str:
        hook = "".join(
            f'<geom class="object" type="capsule" fromto="{x} 0 {z} {right} 0 {up}" size=".009" '
            'rgba=".33 .16 .07 1" mass="0"/>'  # massless, so that the umbrella is balanced on its tip
            for (x, z), (right, up) in pairwise(_HOOK)
        )
        cloth, fold = ".80 .08 .16 1", ".58 .04 .11 1"
        return f"""
        {_stand_xml()}
        <body name="umbrella"><freejoint/>{hook}
          <geom class="object" type="cylinder" pos="0 0 .0175" size=".008 .0175" rgba=".70 .71 .73 1"/>
          <geom class="object" type="capsule" fromto="0 0 .055 0 0 .208" size=".020" rgba="{cloth}"/>
          <geom class="marker" type="ellipsoid" pos="0 0 .150" size=".0225 .0225 .095" rgba="{cloth}"/>
          <geom class="marker" type="cylinder" pos="0 0 .200" size=".0205 .006" rgba="{fold}"/>
          <geom class="marker" type="ellipsoid" pos="0 0 .150" size=".0232 .004 .096" rgba="{fold}"/>
          <geom class="marker" type="cylinder" pos="0 0 .255" size=".006 .032" rgba=".70 .71 .73 1"/>
        </body>"""

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        x, y = rng.uniform(_LOW, _HIGH)
        world.place("stand", np.array([x, y, TABLE_Z]), yaw=rng.uniform(-np.pi / 4, np.pi / 4))
        world.place("umbrella", np.array([x, y, TABLE_Z + _FLOOR]), yaw=rng.uniform(-np.pi, np.pi))
        return {variation: "umbrella"}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        yaw = wrap_angle(world.yaw(goal_object), np.pi)  # the fingers close across the handle, in either direction
        grasp = world.position(goal_object) + world.rotation(goal_object) @ _GRASP
        return pick(grasp, above=_ABOVE, lift=_LIFT, yaw=yaw)

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        point = (world.position(goal_object) - world.position("stand")) @ world.rotation("stand")
        inside = np.abs(point[:2]).max() < _WIDTH and point[2] < _HEIGHT
        return None if inside else Outcome.SUCCESS

    def describe(self, variation: int) -> dict[str, str]:
        return {}


def _stand_xml() -> str:
    """An open box with a broad rim that keeps the umbrella upright."""
    steel, rim, middle = ".20 .30 .36 1", ".55 .64 .68 1", _HEIGHT / 2
    out, bar = _WIDTH - 0.003, (_WIDTH + _HOLE) / 2 + 0.001
    walls = "".join(
        f'<frame euler="0 0 {turn * np.pi / 2}">'
        f'<geom class="prop" type="box" pos="{out} 0 {middle}" size=".003 {_WIDTH} {middle}" rgba="{steel}"/>'
        f'<geom class="prop" type="box" pos="{bar} 0 {_HEIGHT}" size="{bar - _HOLE} {_WIDTH + 0.002} .005" '
        f'rgba="{rim}"/>'
        f"</frame>"
        for turn in range(4)
    )
    return f"""
    <body name="stand" mocap="true">{walls}
      <geom class="prop" type="box" pos="0 0 {_FLOOR / 2}" size="{_WIDTH} {_WIDTH} {_FLOOR / 2}" rgba="{steel}"/>
    </body>"""
