"""Press the button whose base has the named colour."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.robot import FINGER_BEYOND_TIP
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, Task, downward
from instructrl.sim.tabletop.world import World

_BASE, _BASE_HEIGHT = 0.055, 0.036  # half the width and the height, metres
_CAP_HEIGHT, _TRAVEL = 0.022, 0.016
_PRESSED = 0.003
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.42, 0.32])
_ABOVE = 0.10


class PushButton(Task):
    """One button on the table at a random yaw; the colour of its base identifies the variation."""

    variations = 18  # all colours except black and white
    max_steps = 4
    templates = (
        "push the {color} button",
        "press the button with the {color} base",
        "close the gripper and push down the {color} button",
        "press down on the {color} button",
        "push the button on the {color} base down with the gripper",
    )
    held_out_templates = (
        "press the {color} button down with the gripper",
        "push the button with the {color} base",
    )

    def bodies(self) -> str:
        middle = _BASE_HEIGHT / 2
        return f"""
        <body name="button" mocap="true">
          <geom name="base" class="prop" type="box" pos="0 0 {middle}" size="{_BASE} {_BASE} {middle}"/>
          <geom class="marker" type="cylinder" pos="0 0 {_BASE_HEIGHT}" size=".034 .002" rgba=".80 .80 .82 1"/>
          <body name="cap" pos="0 0 {_BASE_HEIGHT}" gravcomp="1">
            <joint name="button" type="slide" axis="0 0 -1" range="0 {_TRAVEL}" stiffness="300" damping="6"/>
            <geom class="prop" type="cylinder" pos="0 0 {_CAP_HEIGHT / 2}" size=".026 {_CAP_HEIGHT / 2}"
                  rgba=".10 .10 .11 1" mass="0.05"/>
          </body>
        </body>"""

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        world.color("base", COLORS[COLOR_NAMES[variation]])
        world.place("button", np.array([*rng.uniform(_LOW, _HIGH), TABLE_Z]), yaw=rng.uniform(-np.pi, np.pi))
        return {variation: "button"}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        top = world.position(goal_object) + (0.0, 0.0, _BASE_HEIGHT + _CAP_HEIGHT + FINGER_BEYOND_TIP)
        above, below = top + (0.0, 0.0, _ABOVE), top - (0.0, 0.0, 0.75 * _TRAVEL)
        return [downward(above, gripper=CLOSED), downward(below, gripper=CLOSED)]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        return Outcome.SUCCESS if world.joint("button") > _PRESSED else None

    def describe(self, variation: int) -> dict[str, str]:
        return {"color": COLOR_NAMES[variation]}
