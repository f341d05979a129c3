"""Push the block over the table onto the target."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import box
from instructrl.sim.tabletop.task import CLOSED, Task, downward, wrap_angle
from instructrl.sim.tabletop.world import World

_HALF = 0.03  # metres, half an edge of the block
_TARGET = 0.045  # half the width of the target
_AWAY = 0.19  # from the block to the target
_ON = 0.03  # maximum distance of the block's centre from the target's, along and across
_FINGER = 0.0095  # half the thickness of the closed fingers where they push
_BEHIND = 0.035  # metres between the fingers and the block at first
_LOW, _HIGH = np.array([0.02, -0.34]), np.array([0.42, 0.34])
# Viscous drag instead of dry friction, with which the block would slide on after the fingers stop.
_DRAG, _TWIST = 6.0, 0.004  # N s / m, N m s / rad
_ABOVE, _HEIGHT = 0.12, 0.022  # height of the tip over the table, before and during the push


class SlideBlockToTarget(Task):
    """A block that faces a target at some distance, both at a random yaw."""

    variations = 1
    max_steps = 5
    templates = (
        "slide the block to the target",
        "push the block onto the square",
        "move the orange block along the table until it is on the target",
        "shove the block over to the marked square",
        "with the gripper closed, push the block onto the target",
    )
    held_out_templates = (
        "push the orange block along the table to the target",
        "slide the block onto the marked square",
    )

    def bodies(self) -> str:
        blue, white = ".06 .12 .98", "1 1 1"
        target = (
            box((0, 0, 0.0005), (_TARGET, _TARGET, 0.0005), blue, kind="marker"),
            box((0, 0, 0.0010), (_TARGET - 0.008, _TARGET - 0.008, 0.0005), white, kind="marker"),
            box((0, 0, 0.0015), (_TARGET - 0.016, _TARGET - 0.016, 0.0005), blue, kind="marker"),
        )
        block = box((0, 0, 0), (_HALF, _HALF, _HALF), "1 .48 .02", more='mass=".1"')
        return f"""
        <body name="target" mocap="true">{"".join(target)}</body>
        <body name="start" mocap="true">
          <body name="block" gravcomp="1">
            <joint type="slide" axis="1 0 0" damping="{_DRAG}"/>
            <joint type="slide" axis="0 1 0" damping="{_DRAG}"/>
            <joint type="hinge" axis="0 0 1" damping="{_TWIST}"/>
            {block}
          </body>
        </body>"""

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        block, yaw = rng.uniform(_LOW, _HIGH), rng.uniform(-np.pi, np.pi)
        direction = np.array([np.cos(yaw), np.sin(yaw)])
        ends = np.stack([block - (_HALF + _BEHIND) * direction, block + _AWAY * direction])
        if (ends < _LOW).any() or (ends > _HIGH).any():
            return None
        world.place("start", np.array([*block, TABLE_Z + _HALF]), yaw=yaw)
        world.place("target", np.array([*ends[1], TABLE_Z]), yaw=yaw)
        return {variation: "block"}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        block, target = world.position(goal_object)[:2], world.position("target")[:2]
        direction = (target - block) / np.linalg.norm(target - block)
        yaw = wrap_angle(np.arctan2(direction[1], direction[0]), np.pi)  # the fingers are symmetric
        behind, beside = block - (_HALF + _FINGER + _BEHIND) * direction, target - (_HALF + _FINGER) * direction
        stops = (*behind, _ABOVE), (*behind, _HEIGHT), (*beside, _HEIGHT)
        return [downward(np.array(stop) + (0.0, 0.0, TABLE_Z), yaw=yaw, gripper=CLOSED) for stop in stops]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        off = (world.position(goal_object) - world.position("target")) @ world.rotation("target")
        return Outcome.SUCCESS if np.abs(off[:2]).max() < _ON else None

    def describe(self, variation: int) -> dict[str, str]:
        return {}
