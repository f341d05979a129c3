"""Pull open the named one of a cabinet's three drawers."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import box, rod
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward
from instructrl.sim.tabletop.world import World

_DRAWERS = ("bottom", "middle", "top")
_WIDTH, _DEPTH, _WALL = 0.12, 0.23, 0.008  # metres; half the width
_PITCH, _FRONT = 0.088, 0.042  # from drawer to drawer, and half the height of a front
_THICK = 0.012  # of a front
_HEIGHT = 3 * _PITCH + 2 * _WALL
_KNOB = 0.030  # from the front to the middle of the knob
_TRAVEL, _OPENED, _PULL = 0.19, 0.15, 0.172
_TILT = np.radians(55.0)  # of the gripper, outward
_BEFORE = 0.10
_LOW, _HIGH = np.array([0.12, -0.02]), np.array([0.34, 0.14])  # of the centre of the cabinet's front


class OpenDrawer(Task):
    """A cabinet at the robot's left whose drawers open to the right."""

    variations = len(_DRAWERS)
    max_steps = 5
    graspable = _DRAWERS
    templates = (
        "open the {drawer} drawer",
        "pull the {drawer} drawer open",
        "slide the {drawer} drawer out of the cabinet",
        "grasp the knob of the {drawer} drawer and pull it",
        "pull out the drawer at the {drawer}",
    )
    held_out_templates = (
        "slide open the {drawer} drawer of the cabinet",
        "grasp the {drawer} knob and pull the drawer out",
    )

    def bodies(self) -> str:
        return _cabinet_xml()

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        yaw = np.pi / 2 + rng.uniform(-np.pi / 8, np.pi / 8)
        world.place("cabinet", np.array([*rng.uniform(_LOW, _HIGH), TABLE_Z]), yaw=yaw)
        return dict(enumerate(_DRAWERS))

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        yaw, (inward, _, upward) = world.yaw("cabinet"), world.rotation("cabinet").T
        knob = world.position(goal_object) - _KNOB * inward
        before = knob - _BEFORE * (np.sin(_TILT) * inward - np.cos(_TILT) * upward)
        return [
            downward(before, yaw=yaw, tilt=_TILT, gripper=OPEN),
            downward(knob, yaw=yaw, tilt=_TILT, gripper=CLOSED),
            downward(knob - _PULL * inward, yaw=yaw, tilt=_TILT, gripper=CLOSED),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        if any(world.joint(name) > _OPENED for name in distractors):
            return Outcome.FAILURE
        return Outcome.SUCCESS if world.joint(goal_object) > _OPENED else None

    def describe(self, variation: int) -> dict[str, str]:
        return {"drawer": _DRAWERS[variation]}


def _cabinet_xml() -> str:
    """The cabinet; its origin is the bottom centre of its front, x points into it."""
    wood, middle, half, thin = ".52 .33 .18", _DEPTH / 2, _HEIGHT / 2, _WALL / 2
    panels = (
        box((middle, _WIDTH - thin, half), (middle, thin, half), wood),
        box((middle, thin - _WIDTH, half), (middle, thin, half), wood),
        box((_DEPTH - thin, 0, half), (thin, _WIDTH, half), wood),
        box((middle, 0, thin), (middle, _WIDTH, thin), wood),
        box((middle, 0, _HEIGHT - thin), (middle, _WIDTH, thin), wood),
    )
    return f'<body name="cabinet" mocap="true">{"".join(panels)}{"".join(map(_drawer_xml, _DRAWERS))}</body>'


def _drawer_xml(name: str) -> str:
    """A front with a knob and a tray behind it; the origin is the centre of the front's outer side."""
    pale, inside, metal = ".87 .72 .50", ".74 .58 .38", ".12 .12 .13"
    wide, deep, low = _WIDTH - 2 * _WALL, (_DEPTH - 3 * _WALL) / 2, 0.024
    back, foot = deep + _THICK, low - _FRONT
    parts = (
        box((_THICK / 2, 0, 0), (_THICK / 2, _WIDTH - 0.002, _FRONT), pale, more='mass=".3"'),
        box((0, 0, 0), (0.001, _WIDTH - 0.020, _FRONT - 0.016), inside, kind="marker"),
        rod((0.012 - _KNOB, 0, 0), (-0.014 - _KNOB, 0, 0), 0.016, metal, more='mass=".02"'),
        rod((0, 0, 0), (-_KNOB, 0, 0), 0.008, metal, kind="marker"),
        box((back, 0, 0.004 - _FRONT), (deep, wide, 0.003), inside, kind="marker"),
        box((back, wide - 0.003, foot), (deep, 0.003, low), inside, kind="marker"),
        box((back, 0.003 - wide, foot), (deep, 0.003, low), inside, kind="marker"),
        box((back + deep - 0.003, 0, foot), (0.003, wide, low), inside, kind="marker"),
    )
    return f"""
    <body name="{name}" pos="{-_THICK} 0 {_WALL + (_DRAWERS.index(name) + 0.5) * _PITCH}" gravcomp="1">
      <joint name="{name}" type="slide" axis="-1 0 0" range="0 {_TRAVEL}" damping="8" frictionloss="1.5"/>
      {"".join(parts)}
    </body>"""
