"""Scenes for data_tools.probe: camera images, two descriptions of one object, its colour and its position."""

from typing import NamedTuple

import numpy as np

from instructrl.config.environment import SimConfig
from instructrl.errors import InputError
from instructrl.sim import EpisodeStart
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.things import OBJECT_KINDS, SceneObject

FIRST_SEED = 4_000_000_000  # above those of demonstrations, evaluations and data_tools.frames
SEEDS = 1_000_000  # per value of `seed`
MIN_GAP = 0.04  # minimum horizontal distance between objects of a kind, as a share of the image
LOCATIONS = {1: ("",), 2: (" at the left", " at the right"), 3: (" at the left", " in the middle", " at the right")}
TASKS = tuple(  # with one kind of things that are painted, at most three of them
    task for task, kinds in OBJECT_KINDS.items() if 1 <= sum(kind.paint is not None for kind in kinds.values()) <= 3
)


class Scene(NamedTuple):
    """Initial state of an episode."""

    images: np.ndarray  # K H W 3, uint8
    instruction: str  # names the object by its colour
    location: str  # names it by its location: the ball at the left (in the first camera's image)
    color: str
    position: np.ndarray  # [3], metres
    pixel: np.ndarray  # [2], right and down, as shares of the first camera's image


class ProbeScenes:
    """Creates scenes of a task in a worker process."""

    def __init__(self, sim: SimConfig, task: str, seed: int) -> None:
        if task not in TASKS:
            raise InputError(f"tasks: found {task}; allowed: {', '.join(TASKS)}, which have objects in all colours")
        self._cameras, self._seed = tuple(sim.cameras), seed
        self._world = Tabletop(task, cameras=self._cameras, image_size=sim.image_size, renderer=sim.renderer)

    def scene(self, number: int) -> Scene | None:
        """Scene `number` of the seed; None if its object is hidden, or not clearly left or right of the others."""
        seed = FIRST_SEED + self._seed * SEEDS + number
        rng = np.random.default_rng(seed)
        observation = self._world.reset(EpisodeStart(int(rng.integers(self._world.variations)), seed))
        things = self._world.scene_objects(self._cameras[0])
        thing = next((one for one in things if one.body == self._world.goal_object()), None)
        if thing is None:  # the task refers to a painted part of it
            thing = next(
                one for one in things if one.color is not None and one.body.startswith(self._world.goal_object())
            )
        order = left_to_right([one for one in things if one.names == thing.names])
        if not thing.visible or thing.color is None or order is None:
            return None
        location = f"the {thing.names[0]}{LOCATIONS[len(order)][order.index(thing.body)]}"
        return Scene(observation.images, observation.instruction, location, thing.color, thing.position, thing.pixel)

    def close(self) -> None:
        """Free the renderer."""
        self._world.close()


def left_to_right(things: list[SceneObject]) -> list[str] | None:
    """Sort bodies from left to right; None if two of them are too close to tell left from right."""
    row = sorted(things, key=lambda thing: thing.pixel[0])
    gaps = np.diff([thing.pixel[0] for thing in row])
    return None if (gaps < MIN_GAP).any() else [thing.body for thing in row]
