"""Pictures of the embedded tasks with sentences: what data_tools.frames asks of each of its processes."""

import zlib
from dataclasses import dataclass

import numpy as np

from data_tools.captions import caption
from instructrl.config import CAMERAS, EMBEDDED_TASKS, RENDERERS
from instructrl.data.pictures import encoded
from instructrl.schema import number, one_of, words
from instructrl.sim import Start
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.scene import CAMERAS as VIEWS

FIRST_SEED = {"train": 3_000_000_000, "val": 3_500_000_000}  # demonstrations and evaluations have smaller ones
SEEDS = 1_000_000  # of one `seed`


@dataclass
class FramesConfig:
    """The command."""

    out: str = "data/frames"
    frames: int = number(20_000, low=1, high=100_000_000)  # of train
    val_frames: int = number(1_000, low=0, high=100_000_000)
    image_size: int = number(96, low=16, high=1024)  # pixels, square
    seed: int = number(0, low=0, high=400)  # other seeds are other scenes
    tasks: list[str] = words(*EMBEDDED_TASKS, choices=EMBEDDED_TASKS)
    cameras: list[str] = words(*VIEWS, choices=CAMERAS)
    renderer: str = one_of(*RENDERERS, default="auto")
    moments: int = number(3, low=1, high=100)  # of an episode: the start, and others by chance
    views: int = number(2, low=1, high=4)  # cameras at each moment, by chance
    instructions: float = number(0.3, low=0, high=1)  # share of captions that are the instruction
    quality: int = number(95, low=50, high=100)  # of the JPEG
    workers: int | None = number(None, low=1, high=1024)  # processes; null: one per core
    overwrite: bool = False  # whether files that were made otherwise may be replaced


class Photographer:
    """Takes pictures of episodes; in a process of its own."""

    def __init__(self, asked: FramesConfig) -> None:
        self._asked, self._worlds = asked, dict[str, Tabletop]()

    def episode(self, task: str, split: str, episode: int) -> list[tuple[bytes, str]]:
        """JPEGs of an episode's moments, with captions: a function of the settings and these alone."""
        asked = self._asked
        if task not in self._worlds:
            self._worlds[task] = Tabletop(
                task, cameras=asked.cameras, image_size=asked.image_size, renderer=asked.renderer
            )
        world = self._worlds[task]
        seed = FIRST_SEED[split] + asked.seed * SEEDS + episode
        rng = np.random.default_rng((zlib.crc32(task.encode()), seed))
        start = Start(int(rng.integers(world.variations)), seed)
        sentences = world.sentences(start.variation)
        # Which moments are looked at must be known before they come: a share of the longest episode there may be.
        wanted = {0, *(1 + rng.permutation(world.max_steps)[: asked.moments - 1]).tolist()}
        pictures = []
        for moment, _ in enumerate(world.played(start)):
            if moment in wanted:
                for camera in rng.permutation(asked.cameras)[: asked.views]:
                    things = world.things(str(camera))
                    text = (
                        str(rng.choice(sentences))
                        if rng.random() < asked.instructions
                        else caption(things, world.gripper(), rng)
                    )
                    pictures.append((encoded(world.view(str(camera)), asked.quality), text))
            if moment >= max(wanted):
                break
        return pictures

    def provenance(self) -> dict[str, str]:
        """What is recorded beside the pictures."""
        task = self._asked.tasks[0]
        world = Tabletop(task, cameras=self._asked.cameras, image_size=16, renderer=self._asked.renderer)
        try:
            return {name: value for name, value in world.provenance().items() if name != "expert"}
        finally:
            world.close()

    def close(self) -> None:
        """Free the renderers."""
        for world in self._worlds.values():
            world.close()
        self._worlds.clear()
