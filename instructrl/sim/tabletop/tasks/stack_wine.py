"""Put the standing wine bottle into the free slot of the rack, between two other bottles."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.robot import BASE
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward
from instructrl.sim.tabletop.world import World

_RADIUS, _HALF = 0.033, 0.075  # metres, of the bottle's body, whose centre is its origin
_NECK = 0.127  # from there to the grasp point on the neck
_SLOPE = np.radians(26.0)  # of a bottle in the rack, neck up; the rack's frame is horizontal
_ALONG = np.array([np.cos(_SLOPE), 0.0, np.sin(_SLOPE)])  # in that frame, towards the neck
_OVER = np.array([-np.sin(_SLOPE), 0.0, np.cos(_SLOPE)])
_MIDDLE = np.array([0.0, 0.0, 0.088])  # of a bottle in the free slot
_PITCH = 0.10  # metres from slot to slot
_TOOTH = 0.030  # half the diagonal of a tooth of the rails
_TEETH = np.sqrt(2) * _RADIUS - (_PITCH / 2 - _TOOTH)  # from the axis of a bottle down to the centre of the teeth
_TILT = np.radians(40.0)  # of the gripper from vertical at the grasp; more is hard to reach
_BOTTLE_LOW, _BOTTLE_HIGH = np.array([0.22, -0.32]), np.array([0.38, 0.32])
_RACK_LOW, _RACK_HIGH = np.array([0.04, -0.18]), np.array([0.24, 0.18])
_APART = 0.30
_BEFORE, _LIFT, _ABOVE = 0.11, 0.20, 0.20
_SLACK = np.array([0.045, 0.020, 0.015])  # tolerances along, across and above the slot


class StackWine(Task):
    """A rack with a yaw of up to 45 degrees, necks away from the robot, and a bottle standing beside it."""

    variations = 1
    max_steps = 7
    graspable = ("bottle",)
    templates = (
        "put the wine bottle in the rack",
        "lay the standing bottle down in the wine rack",
        "stack the wine bottle in the rack with the others",
        "place the bottle of wine in the free place of the rack",
        "take the bottle by its neck and put it into the wine rack",
    )
    held_out_templates = (
        "lay the bottle of wine down in the rack",
        "stack the standing bottle in the wine rack",
    )

    def bodies(self) -> str:
        x, _, z = _MIDDLE
        lying = "".join(
            f'<frame pos="{x} {y} {z}" euler="0 {np.pi / 2 - _SLOPE} 0">{_bottle_xml("prop", ".45 .05 .10 1")}</frame>'
            for y in (-_PITCH, _PITCH)
        )
        return f"""
        <body name="bottle"><freejoint/>{_bottle_xml("object", ".05 .27 .12 1")}</body>
        <body name="rack" mocap="true">{_rail_xml(-0.045)}{_rail_xml(0.045)}{lying}</body>"""

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        bottle, rack = rng.uniform(_BOTTLE_LOW, _BOTTLE_HIGH), rng.uniform(_RACK_LOW, _RACK_HIGH)
        if np.linalg.norm(bottle - rack) < _APART:
            return None
        world.place("bottle", np.array([*bottle, TABLE_Z + _HALF]))
        world.place("rack", np.array([*rack, TABLE_Z]), yaw=rng.uniform(-np.pi / 4, np.pi / 4))
        return {variation: "bottle"}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        neck, rack, place = (
            world.position(goal_object) + (0.0, 0.0, _NECK),
            world.rotation("rack"),
            world.position("rack"),
        )
        lying = place + rack @ (_MIDDLE + _NECK * _ALONG + 0.004 * _OVER)
        yaw = float(
            np.arctan2(neck[1] - BASE[1], neck[0] - BASE[0])
        )  # any yaw works; this one gives the arm the longest reach
        back = np.array([-np.sin(_TILT) * np.cos(yaw), -np.sin(_TILT) * np.sin(yaw), np.cos(_TILT)])
        grasp_pose = {"yaw": yaw, "tilt": _TILT}
        laying = {"yaw": world.yaw("rack"), "tilt": _TILT + _SLOPE - np.pi / 2}
        return [
            downward(neck + _BEFORE * back, **grasp_pose, gripper=OPEN),
            downward(neck, **grasp_pose, gripper=CLOSED),
            downward(neck + (0.0, 0.0, _LIFT), **grasp_pose, gripper=CLOSED),
            downward(lying + (0.0, 0.0, _ABOVE), **laying, gripper=CLOSED),
            downward(lying, **laying, gripper=OPEN),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        rack = world.rotation("rack")
        off = (world.position(goal_object) - world.position("rack")) @ rack - _MIDDLE
        off = np.array([off @ _ALONG, off[1], off @ _OVER])
        along = abs(world.rotation(goal_object)[:, 2] @ rack @ _ALONG) > np.cos(np.radians(10))
        return Outcome.SUCCESS if world.held() is None and along and (np.abs(off) < _SLACK).all() else None

    def describe(self, variation: int) -> dict[str, str]:
        return {}


def _bottle_xml(kind: str, glass: str) -> str:
    """Body, shoulder, neck, label and foil of an upright bottle; the origin is the centre of the body."""
    return f"""
    <geom class="{kind}" type="cylinder" size="{_RADIUS} {_HALF}" rgba="{glass}"/>
    <geom class="{kind}" type="cylinder" pos="0 0 .115" size=".0125 .040" rgba="{glass}" mass=".01"/>
    <geom class="marker" type="ellipsoid" pos="0 0 {_HALF}" size="{_RADIUS} {_RADIUS} .034" rgba="{glass}"/>
    <geom class="marker" type="cylinder" pos="0 0 -.008" size="{_RADIUS + 0.0006} .034" rgba=".93 .90 .80 1"/>
    <geom class="marker" type="cylinder" pos="0 0 .148" size=".0135 .0085" rgba=".60 .10 .12 1"/>"""


def _rail_xml(x: float) -> str:
    """A rail across the rack at `x` from the centre towards the necks, with the sawtooth that holds the bottles."""
    wood, (ahead, _, top) = ".58 .38 .20 1", _MIDDLE + x * _ALONG - (_TEETH + 0.012) * _OVER
    teeth = "".join(
        f'<frame pos="{ahead} {y * _PITCH} {top}" euler="0 {-_SLOPE} 0"><geom class="prop" type="box" pos="0 0 .012" '
        f'euler="{np.pi / 4} 0 0" size=".006 {_TOOTH / np.sqrt(2)} {_TOOTH / np.sqrt(2)}" rgba="{wood}"/></frame>'
        for y in (-1.5, -0.5, 0.5, 1.5)
    )
    size = f".018 {1.8 * _PITCH} {top / 2}"
    return f'{teeth}<geom class="prop" type="box" pos="{ahead} 0 {top / 2}" size="{size}" rgba="{wood}"/>'
