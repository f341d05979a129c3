"""Turn the left or the right handle of a tap, as seen from the front of its spout."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import box, rod
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, wrap_angle
from instructrl.sim.tabletop.world import World

_HANDLES = ("left", "right")
_ASIDE, _TOP = 0.105, 0.110  # metres from the spout to a handle, and from the table to a handle's bar
_SPOUT = 0.15  # length of the spout
_TURNED = np.pi / 2
_LIMIT, _TURN = np.radians(125.0), np.radians(105.0)
_BASE = np.array([-0.2721, -0.0082])  # the arm's vertical axis
_EASY = np.pi / 4  # yaw relative to the arm at which the last joint is in mid range
_LOW, _HIGH = np.array([0.08, -0.22]), np.array([0.36, 0.22])
_ABOVE = 0.10


class TurnTap(Task):
    """A tap with two handles at a random yaw; both open counterclockwise."""

    variations = len(_HANDLES)
    max_steps = 5
    graspable = _HANDLES
    templates = (
        "turn the {side} tap",
        "turn on the tap on the {side}",
        "grasp the {side} handle and turn it",
        "open the tap on the {side} side of the spout",
        "twist the {side} handle of the tap open",
    )
    held_out_templates = (
        "turn the handle on the {side} side",
        "grasp the {side} tap and twist it open",
    )

    def bodies(self) -> str:
        return _tap_xml()

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        world.place("tap", np.array([*rng.uniform(_LOW, _HIGH), TABLE_Z]), yaw=rng.uniform(-np.pi, np.pi))
        return dict(enumerate(_HANDLES))

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        handle = world.position(goal_object)
        arm = np.arctan2(*(handle[:2] - _BASE)[::-1])
        middle = arm + _EASY - _TURN / 2  # of the yaws with an easy turn; a bar is symmetric under 180 degree rotations
        yaw = middle + wrap_angle(world.yaw(goal_object) + np.pi / 2 - middle, np.pi)
        return [
            downward(handle + (0.0, 0.0, _ABOVE), yaw=yaw, gripper=OPEN),
            downward(handle, yaw=yaw, gripper=CLOSED),
            downward(handle, yaw=yaw + _TURN, gripper=CLOSED),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        if any(world.joint(name) > _TURNED for name in distractors):
            return Outcome.FAILURE
        return Outcome.SUCCESS if world.joint(goal_object) > _TURNED else None

    def describe(self, variation: int) -> dict[str, str]:
        return {"side": _HANDLES[variation]}


def _tap_xml() -> str:
    """The tap; its origin is between the handles, the spout along x."""
    steel, dark, high = ".80 .81 .84", ".30 .31 .34", _TOP + 0.012
    parts = (
        box((0, 0, 0.010), (0.040, _ASIDE + 0.042, 0.010), dark),
        rod((0, 0, 0.02), (0, 0, high), 0.023, steel),
        f'<geom class="prop" type="capsule" fromto="0 0 {high} {_SPOUT} 0 {high}" size=".019" rgba="{steel} 1"/>',
        rod((_SPOUT, 0, high), (_SPOUT, 0, high - 0.045), 0.019, steel, kind="marker"),
        rod((_SPOUT, 0, high - 0.044), (_SPOUT, 0, high - 0.046), 0.014, ".10 .10 .11", kind="marker"),
        *(_handle_xml(name, side) for name, side in zip(_HANDLES, (-_ASIDE, _ASIDE), strict=True)),
    )
    return f'<body name="tap" mocap="true">{"".join(parts)}</body>'


def _handle_xml(name: str, side: float) -> str:
    """A stem with a bar on it; the origin is the centre of the bar."""
    steel, grip = ".60 .62 .66", ".93 .94 .96"
    parts = (
        rod((0, 0, 0.02 - _TOP), (0, 0, -0.010), 0.016, steel, kind="marker"),
        box((0, 0, 0), (0.011, 0.042, 0.013), grip),
        rod((0, 0.042, -0.014), (0, 0.042, 0.014), 0.015, grip, kind="marker"),
        rod((0, -0.042, -0.014), (0, -0.042, 0.014), 0.015, grip, kind="marker"),
    )
    return f"""
    <body name="{name}" pos="0 {side} {_TOP}" gravcomp="1">
      <joint name="{name}" type="hinge" axis="0 0 1" range="0 {_LIMIT}" damping=".05" frictionloss=".05"/>
      {"".join(parts)}
    </body>"""
