"""Base class of the embedded tasks: bodies, placement, instructions, waypoints and success check.

A task is one file in `tasks/`, named as the task; its class has the same name in camel case. Another package adds one
as a subclass of Task, named by an entry point in the group `instructrl.tasks`, and a file task/NAME.yaml (see
cli/folders.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import cast

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import FRONT
from instructrl.sim.tabletop.world import World
from instructrl.tasks import TASKS

OPEN, CLOSED = 1.0, 0.0


class Task(ABC):
    """One task, without state: an episode is determined by the world and the return value of `place`."""

    variations: int
    max_steps: int  # keyframe limit
    graspable: tuple[str, ...] = ()  # bodies that can be grasped: free ones, or parts on a joint
    distractors: tuple[str, ...] = ()  # objects that no instruction asks for, in the naming of goal objects
    symmetry: int = 2  # number of equivalent rotations of the gripper about its approach axis: the fingers are alike
    joint_thresholds: Mapping[str, float] = MappingProxyType(
        {}
    )  # joint -> position; `World.crossed` lists joints beyond it
    templates: tuple[str, ...]  # training instructions with placeholders such as {color}
    held_out_templates: tuple[str, ...]  # held-out instructions

    @abstractmethod
    def bodies(self) -> str:
        """The task's bodies as MJCF."""

    @abstractmethod
    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        """Colour and place all objects; return the goal object of each possible variation, or None to sample again.

        A goal object is a text that only the task interprets: mostly a body's name.
        """

    @abstractmethod
    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        """The expert's keyframe actions [8] for `goal_object` in a newly placed world.

        Called between keyframes, the one that comes next has to be right for the objects' current positions.
        """

    @abstractmethod
    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        """The outcome after a keyframe, given the goal object and the distractors; None while undecided."""

    @abstractmethod
    def describe(self, variation: int) -> dict[str, str]:
        """Values of the placeholders in the templates."""

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """All training or held-out instructions of a variation."""
        words = self.describe(variation)
        return tuple(text.format(**words) for text in (self.held_out_templates if held_out else self.templates))


def load_task(name: str) -> Task:
    """Load a task by name.

    Raises:
        InputError: there is no such task; the message lists the names.
    """
    return cast(Task, TASKS[name]())


def downward(position: np.ndarray, *, yaw: float = 0.0, tilt: float = 0.0, gripper: float) -> np.ndarray:
    """The action [8] with the gripper pointing down at a position, fingers closing along y turned by `yaw`.

    A `tilt` (radians) turns it outward, towards x rotated by `yaw`; at 90 degrees it is horizontal.
    """
    turn, side, lean, rest = np.cos(yaw / 2), np.sin(yaw / 2), np.sin(tilt / 2), np.cos(tilt / 2)
    return np.array([*position, -side * rest, turn * rest, side * lean, turn * lean, gripper])


def pick(position: np.ndarray, *, above: float, lift: float, yaw: float = 0.0, tilt: float = 0.0) -> list[np.ndarray]:
    """The three keyframes of a pick at a position: `above` it, closed around it, and raised by `lift`.

    Metres, straight up; `yaw` and `tilt` as of `downward`.
    """
    grasp = {"yaw": yaw, "tilt": tilt, "gripper": CLOSED}
    return [
        downward(position + (0.0, 0.0, above), yaw=yaw, tilt=tilt, gripper=OPEN),
        downward(position, **grasp),
        downward(position + (0.0, 0.0, lift), **grasp),
    ]


def wrap_angle(yaw: float, period: float) -> float:
    """Equivalent angle in [-period/2, period/2) for an object with rotational symmetry of `period`."""
    return (yaw + period / 2) % period - period / 2


def scatter(
    rng: np.random.Generator, count: int, *, low: np.ndarray, high: np.ndarray, apart: float
) -> np.ndarray | None:
    """Random points [count, 2 or 3] in a box, at least `apart` metres from each other; None if this sample is not."""
    points = rng.uniform(low, high, size=(count, len(low)))
    first, second = _pairs(count)
    gaps = np.linalg.norm(points[first] - points[second], axis=-1)
    return points if count < 2 or gaps.min() >= apart else None


def is_occluded(points: np.ndarray, radius: float) -> bool:
    """Return True if, for the front camera, an object of this radius at one point covers half of another or more."""
    directions = points - np.asarray(FRONT)
    away = np.linalg.norm(directions, axis=1)
    cosines = np.clip((directions @ directions.T) / np.outer(away, away), -1.0, 1.0)
    return bool(np.arccos(cosines[_pairs(len(points))]).min(initial=np.pi) < radius / away.min())


@cache
def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the first and of the second of all pairs of `count` things."""
    return np.triu_indices(count, 1)
