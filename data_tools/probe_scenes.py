"""Scenes for data_tools.probe: what the cameras see, two ways to name one thing in it, its colour and its place."""

from typing import NamedTuple

import numpy as np

from instructrl.config import SimConfig
from instructrl.errors import InputError
from instructrl.sim import Start
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.things import KINDS, Thing

FIRST_SEED = 4_000_000_000  # demonstrations, evaluations and the pictures of data_tools.frames have smaller ones
SEEDS = 1_000_000  # of one `seed`
BESIDE = 0.04  # of the picture: things that are called left or right of another are so far apart
ORDERS = {1: ("",), 2: (" at the left", " at the right"), 3: (" at the left", " in the middle", " at the right")}
TASKS = tuple(  # with one kind of things that are painted, at most three of them
    task for task, kinds in KINDS.items() if 1 <= sum(kind.paint is not None for kind in kinds.values()) <= 3
)


class Scene(NamedTuple):
    """The start of an episode."""

    images: np.ndarray  # K H W 3, uint8
    instruction: str  # names the thing by its colour
    place: str  # names it without: the ball at the left (in the first camera's picture)
    color: str
    position: np.ndarray  # [3], metres
    pixel: np.ndarray  # [2], right and down, as shares of the first camera's picture


class ProbeScenes:
    """Makes scenes of a task; in a process of its own."""

    def __init__(self, sim: SimConfig, task: str, seed: int) -> None:
        if task not in TASKS:
            raise InputError(f"tasks: found {task}; allowed: {', '.join(TASKS)}, which have things in all colours")
        self._cameras, self._seed = tuple(sim.cameras), seed
        self._world = Tabletop(task, cameras=self._cameras, image_size=sim.image_size, renderer=sim.renderer)

    def scene(self, number: int) -> Scene | None:
        """Scene `number` of the seed; None if its thing is hidden, or not clearly left or right of the others."""
        seed = FIRST_SEED + self._seed * SEEDS + number
        rng = np.random.default_rng(seed)
        seen = self._world.reset(Start(int(rng.integers(self._world.variations)), seed))
        things = self._world.things(self._cameras[0])
        thing = next((one for one in things if one.body == self._world.asked_for()), None)
        if thing is None:  # the task has another name for it, a painted part
            thing = next(
                one for one in things if one.color is not None and one.body.startswith(self._world.asked_for())
            )
        order = ordered([one for one in things if one.names == thing.names])
        if not thing.seen or thing.color is None or order is None:
            return None
        place = f"the {thing.names[0]}{ORDERS[len(order)][order.index(thing.body)]}"
        return Scene(seen.images, seen.instruction, place, thing.color, thing.position, thing.pixel)

    def close(self) -> None:
        """Free the renderer."""
        self._world.close()


def ordered(things: list[Thing]) -> list[str] | None:
    """The bodies from left to right; None if two of them are hardly beside each other."""
    row = sorted(things, key=lambda thing: thing.pixel[0])
    gaps = np.diff([thing.pixel[0] for thing in row])
    return None if (gaps < BESIDE).any() else [thing.body for thing in row]
