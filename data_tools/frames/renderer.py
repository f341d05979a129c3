"""Renderer of captioned images of the embedded tasks; runs in the worker processes of data_tools.frames."""

import zlib
from dataclasses import dataclass

import numpy as np

from data_tools.frames.captions import caption
from instructrl.config.environment import EMBEDDED_TASKS
from instructrl.config.fields import choice_list, number, one_of, setting
from instructrl.config.simulators import TABLETOP_CAMERAS, TABLETOP_RENDERERS
from instructrl.data.image_text.images import encode_jpeg
from instructrl.sim import EpisodeStart
from instructrl.sim.tabletop.env import Tabletop

FIRST_SEED = {"train": 3_000_000_000, "val": 3_500_000_000}  # above those of demonstrations and evaluations
SEEDS = 1_000_000  # per value of `seed`


@dataclass
class FramesConfig:
    """Settings of the command."""

    out: str = setting("data/frames", help="folder of the files to write")
    frames: int = number(20_000, low=1, high=100_000_000, help="training frames")
    val_frames: int = number(1_000, low=0, high=100_000_000, help="validation frames")
    image_size: int = number(96, low=16, high=1024, help="side of the square images in pixels")
    seed: int = number(0, low=0, high=400, help="random seed of the scenes")
    tasks: list[str] = choice_list(*EMBEDDED_TASKS, choices=EMBEDDED_TASKS, help="tasks that the scenes are from")
    cameras: list[str] = choice_list(*TABLETOP_CAMERAS, choices=TABLETOP_CAMERAS, help="cameras")
    renderer: str = one_of(*TABLETOP_RENDERERS, default="auto", help="renderer; auto: the best one available")
    moments: int = number(3, low=1, high=100, help="moments of each episode: the initial state, and others at random")
    views: int = number(2, low=1, high=4, help="cameras for each moment, at random")
    instructions: float = number(0.3, low=0, high=1, help="fraction of captions that are instructions")
    quality: int = number(95, low=50, high=100, help="JPEG quality")
    workers: int | None = number(None, low=1, high=1024, help="processes; null: one per CPU core")
    overwrite: bool = setting(False, help="replace files that were made with other settings")


class FrameRenderer:
    """Renders captioned images of episodes in a worker process."""

    def __init__(self, config: FramesConfig) -> None:
        self._config, self._worlds = config, dict[str, Tabletop]()

    def episode(self, task: str, split: str, episode: int) -> list[tuple[bytes, str]]:
        """Render JPEGs of an episode with captions: a function of the settings and these arguments alone."""
        config = self._config
        if task not in self._worlds:
            self._worlds[task] = Tabletop(
                task, cameras=config.cameras, image_size=config.image_size, renderer=config.renderer
            )
        world = self._worlds[task]
        seed = FIRST_SEED[split] + config.seed * SEEDS + episode
        rng = np.random.default_rng((zlib.crc32(task.encode()), seed))
        start = EpisodeStart(int(rng.integers(world.variations)), seed)
        sentences = world.instructions(start.variation)
        # Moments are sampled in advance, from the maximum episode length: the actual length is not known yet.
        wanted = {0, *(1 + rng.permutation(world.max_steps)[: config.moments - 1]).tolist()}
        images = []
        for moment, _ in enumerate(world.expert_steps(start)):
            if moment in wanted:
                for camera in rng.permutation(config.cameras)[: config.views]:
                    things = world.scene_objects(str(camera))
                    text = (
                        str(rng.choice(sentences))
                        if rng.random() < config.instructions
                        else caption(things, world.gripper(), rng)
                    )
                    images.append((encode_jpeg(world.camera_image(str(camera)), config.quality), text))
            if moment >= max(wanted):
                break
        return images

    def provenance(self) -> dict[str, str]:
        """Simulator provenance recorded with the images."""
        task = self._config.tasks[0]
        world = Tabletop(task, cameras=self._config.cameras, image_size=16, renderer=self._config.renderer)
        try:
            return {name: value for name, value in world.provenance().items() if name != "expert"}
        finally:
            world.close()

    def close(self) -> None:
        """Free the renderers."""
        for world in self._worlds.values():
            world.close()
        self._worlds.clear()
