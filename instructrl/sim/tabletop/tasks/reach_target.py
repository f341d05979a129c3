"""Touch the ball of the named colour with the gripper's tip; two balls of other colours are distractors."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.task import OPEN, Task, downward, is_occluded, scatter
from instructrl.sim.tabletop.world import World

_BALLS = ("ball0", "ball1", "ball2")
_RADIUS = 0.035  # metres
_LOW, _HIGH = np.array([0.02, -0.32, 0.83]), np.array([0.42, 0.32, 1.22])
_APART = 0.20  # metres


class ReachTarget(Task):
    """Three balls in the air, one of them the goal."""

    variations = len(COLOR_NAMES)
    max_steps = 3
    templates = (
        "reach the {color} ball",
        "touch the {color} target with the gripper",
        "move the gripper to the {color} sphere",
        "go to the {color} ball and touch it",
        "bring the tip of the arm to the {color} target",
        "reach for the sphere that is {color}",
    )
    held_out_templates = (
        "move the tip of the gripper to the {color} ball",
        "touch the sphere that is {color}",
    )

    def bodies(self) -> str:
        return "".join(
            f'<body name="{name}" mocap="true">'
            f'<geom name="{name}" class="marker" type="sphere" size="{_RADIUS}"/></body>'
            for name in _BALLS
        )

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        points = scatter(rng, len(_BALLS), low=_LOW, high=_HIGH, apart=_APART)
        others = rng.permutation([color for color in range(self.variations) if color != variation])[: len(_BALLS) - 1]
        if points is None or is_occluded(points, _RADIUS):
            return None
        goal_objects = dict(zip((variation, *others.tolist()), _BALLS, strict=True))
        for (color, name), point in zip(goal_objects.items(), points, strict=True):
            world.color(name, COLORS[COLOR_NAMES[color]])
            world.place(name, point)
        return goal_objects

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        return [downward(world.position(goal_object), gripper=OPEN)]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        tip = world.tip()
        inside = [name for name in (goal_object, *distractors) if np.linalg.norm(world.position(name) - tip) < _RADIUS]
        if not inside:
            return None
        return Outcome.SUCCESS if inside == [goal_object] else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {"color": COLOR_NAMES[variation]}
