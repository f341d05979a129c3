"""What a task of the embedded simulator is: bodies, placement, sentences, waypoints and a judgement.

A task is one file in `tasks/`; its class is the file's name in camel case, and the file's name is the task's.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from instructrl.errors import InputError
from instructrl.sim.env import Outcome
from instructrl.sim.tabletop import tasks
from instructrl.sim.tabletop.scene import FRONT
from instructrl.sim.tabletop.world import World

OPEN, CLOSED = 1.0, 0.0


class Task(ABC):
    """One task. It holds no state: all that an episode is lies in the world and in what `place` returned."""

    variations: int
    max_steps: int  # keyframes allowed
    graspable: tuple[str, ...] = ()  # bodies that can be held: free ones, or parts that move on a joint
    watched: Mapping[str, float] = MappingProxyType({})  # joints, and beyond which position `World.passed` names them
    templates: tuple[str, ...]  # sentences with {color}, for training
    held_out_templates: tuple[str, ...]  # and those kept for testing

    @abstractmethod
    def bodies(self) -> str:
        """The task's bodies as MJCF."""

    @abstractmethod
    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        """Colour and place everything; answer the thing that each askable variation means here, or None to draw again.

        A thing is a word that the task itself reads: mostly a body's name.
        """

    @abstractmethod
    def waypoints(self, world: World, thing: str) -> list[np.ndarray]:
        """The expert's keyframe actions [8] for a freshly placed world, if `thing` is asked for."""

    @abstractmethod
    def judge(self, world: World, thing: str, others: tuple[str, ...]) -> Outcome | None:
        """How the episode stands after a keyframe, if `thing` is asked for and `others` are the distractors."""

    @abstractmethod
    def describe(self, variation: int) -> dict[str, str]:
        """The words to put into the templates."""

    def sentences(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """All the sentences that ask for a variation."""
        words = self.describe(variation)
        return tuple(text.format(**words) for text in (self.held_out_templates if held_out else self.templates))


def task_names() -> tuple[str, ...]:
    """Names of all tasks, without importing them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(tasks.__path__)))


def load_task(name: str) -> Task:
    """The task of this name.

    Raises:
        InputError: there is none; the message lists the choices.
    """
    if name not in task_names():
        raise InputError(f"task: found {name!r}, expected one of {', '.join(task_names())}")
    module = importlib.import_module(f"{tasks.__name__}.{name}")
    return getattr(module, "".join(part.capitalize() for part in name.split("_")))()


def downward(position: np.ndarray, *, yaw: float = 0.0, tilt: float = 0.0, gripper: float) -> np.ndarray:
    """The action [8] with the gripper pointing down at a position, fingers closing along y turned by `yaw`.

    With a `tilt` (radians) it points as much outward, along x turned by `yaw`; a quarter turn is level.
    """
    turn, side, lean, rest = np.cos(yaw / 2), np.sin(yaw / 2), np.sin(tilt / 2), np.cos(tilt / 2)
    return np.array([*position, -side * rest, turn * rest, side * lean, turn * lean, gripper])


def pick(position: np.ndarray, *, above: float, lift: float, yaw: float = 0.0, tilt: float = 0.0) -> list[np.ndarray]:
    """The three keyframes that pick something up at a position: `above` it, closed around it, and raised by `lift`.

    Metres, straight up; `yaw` and `tilt` as of `downward`.
    """
    held = {"yaw": yaw, "tilt": tilt, "gripper": CLOSED}
    return [
        downward(position + (0.0, 0.0, above), yaw=yaw, tilt=tilt, gripper=OPEN),
        downward(position, **held),
        downward(position + (0.0, 0.0, lift), **held),
    ]


def folded(yaw: float, period: float) -> float:
    """The smallest turn, in [-period/2, period/2), that looks the same for a thing that repeats after `period`."""
    return (yaw + period / 2) % period - period / 2


def scatter(
    rng: np.random.Generator, count: int, *, low: np.ndarray, high: np.ndarray, apart: float
) -> np.ndarray | None:
    """Random points [count, 2 or 3] in a box, at least `apart` metres from each other; None if this draw is not."""
    points = rng.uniform(low, high, size=(count, len(low)))
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(count, 1)]
    return points if count < 2 or gaps.min() >= apart else None


def hidden(points: np.ndarray, radius: float) -> bool:
    """Whether, for the front camera, something of this radius at one point covers half of another or more."""
    sight = points - np.asarray(FRONT)
    away = np.linalg.norm(sight, axis=1)
    cosines = np.clip((sight @ sight.T) / np.outer(away, away), -1.0, 1.0)
    return bool(np.arccos(cosines[np.triu_indices(len(points), 1)]).min(initial=np.pi) < radius / away.min())
