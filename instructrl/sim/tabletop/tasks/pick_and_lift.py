"""Grasp the block of the named colour and lift it to the glass ball; two blocks of other colours are distractors."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import cubes
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, scatter
from instructrl.sim.tabletop.world import World

_BLOCKS = ("block0", "block1", "block2")
_HALF = 0.025  # metres, half an edge
_TARGET_RADIUS = 0.05
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.40, 0.32])
_TARGET_LOW, _TARGET_HIGH = np.array([0.08, -0.25, 0.96]), np.array([0.36, 0.25, 1.16])
_APART = 0.10
_ABOVE = 0.12


class PickAndLift(Task):
    """Three blocks on the table at random yaws, and a target position in the air."""

    variations = len(COLOR_NAMES)
    max_steps = 6
    graspable = _BLOCKS
    symmetry = 4
    templates = (
        "pick up the {color} block and lift it to the target",
        "lift the {color} block up to the ball",
        "grasp the {color} cube and bring it up to the target",
        "take the {color} block and lift it up to the glass ball",
        "pick the {color} cube up and hold it at the target",
    )
    held_out_templates = (
        "grasp the {color} block and lift it up to the target",
        "take the {color} cube and hold it at the glass ball",
    )

    def bodies(self) -> str:
        return (
            f'{cubes(_BLOCKS, _HALF)}<body name="target" mocap="true">'
            f'<geom class="glass" type="sphere" size="{_TARGET_RADIUS}" rgba=".97 .97 1 .45"/></body>'
        )

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        points = scatter(rng, len(_BLOCKS), low=_LOW, high=_HIGH, apart=_APART)
        others = rng.permutation([color for color in range(self.variations) if color != variation])[: len(_BLOCKS) - 1]
        if points is None:
            return None
        goal_objects = dict(zip((variation, *others.tolist()), _BLOCKS, strict=True))
        for (color, name), point in zip(goal_objects.items(), points, strict=True):
            world.color(name, COLORS[COLOR_NAMES[color]])
            # a cube is symmetric under 90 degree rotations, so this covers all yaws
            world.place(name, np.array([*point, TABLE_Z + _HALF]), yaw=rng.uniform(-np.pi / 4, np.pi / 4))
        world.place("target", rng.uniform(_TARGET_LOW, _TARGET_HIGH))
        return goal_objects

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        block, target, yaw = world.position(goal_object), world.position("target"), world.yaw(goal_object)
        return [
            downward(block + (0.0, 0.0, _ABOVE), yaw=yaw, gripper=OPEN),
            downward(block, yaw=yaw, gripper=OPEN),
            downward(block, yaw=yaw, gripper=CLOSED),
            downward(target, yaw=yaw, gripper=CLOSED),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        held = world.held()
        if held is None or np.linalg.norm(world.position(held) - world.position("target")) > _TARGET_RADIUS:
            return None
        return Outcome.SUCCESS if held == goal_object else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {"color": COLOR_NAMES[variation]}
