"""A simulator in numpy: the tip is to touch the disc, one of two on a mat, whose colour the instruction names."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from instructrl.actions import check_action
from instructrl.config.environment import SimConfig, state_field, workspace_field
from instructrl.config.fields import choice_list, number
from instructrl.errors import InputError
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome, Step, StepCounter, replay
from instructrl.types import Demonstration, Observation
from instructrl.workspace import Workspace

COLORS = {"red": (220, 40, 40), "blue": (40, 60, 220)}
EYES = {"port": (1.3, 0.15, 1.0), "starboard": (1.3, -0.15, 1.0)}  # positions of the cameras, which look down, metres


@dataclass
class MatConfig(SimConfig):
    """The declarations of the simulator, and a setting of its own."""

    implementation: ClassVar[str] = "mat_world:Mat"
    cameras: list[str] = choice_list(*EYES, choices=tuple(EYES), help="cameras")
    workspace: list[float] = workspace_field(Workspace((1.0, -0.3, 0.0), (1.6, 0.3, 0.2)))
    state: list[str] = state_field("tip x (m)", "tip y (m)", "tip z (m)")
    radius: float = number(0.04, low=0.01, high=0.1, help="radius of a disc in metres")


class Mat:
    """One task; `instructrl.sim.env` says what each method promises. A variation is the colour of the disc to touch."""

    variations, max_steps = len(COLORS), 2

    def __init__(self, config: MatConfig) -> None:
        self._size, self._radius, self.limits = (size := config.image_size), config.radius, EpisodeLimits()
        self._eyes = np.array([EYES[name] for name in config.cameras])
        inner = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float32)
        outer = [np.block([[-np.eye(3)[[1, 0, 2]], eye[:, None]], [np.eye(4)[3:]]]) for eye in self._eyes]
        self._intrinsics, self._extrinsics = np.stack([inner] * len(outer)), np.array(outer, np.float32)

    @classmethod
    def from_config(cls, config: MatConfig, task: str) -> Self:
        return cls(config)  # there is one task, whatever its name

    @classmethod
    def available_renderer(cls, requested: str) -> str:
        return "numpy"

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        return (f"{'reach' if held_out else 'touch'} the {[*COLORS][variation]} disc",)

    def reset(self, start: EpisodeStart) -> Observation:
        rng = np.random.default_rng((start.variation, start.seed))  # equal starts give equal scenes
        self._goal = start.variation if start.goal is None else start.goal
        self._tip = np.array([1.3, 0.0, 0.2], np.float32)
        self._discs = rng.permutation(rng.uniform([[1.1, -0.2], [1.1, 0.1]], [[1.5, -0.1], [1.5, 0.2]]))
        self._counter = StepCounter(self.limits, max_steps=self.max_steps)
        return self._observe()

    def alternative_goals(self) -> tuple[int, ...]:
        return (1 - self._goal,)

    def step(self, action: np.ndarray) -> Step:
        try:
            self._tip = check_action(action)[:3].astype(np.float32)
        except InputError:
            return Step(self._observe(), self._counter.count(Outcome.INVALID_ACTION))
        touched = (np.linalg.norm(self._discs - self._tip[:2], axis=1) < self._radius) & (self._tip[2] < 0.05)
        outcome = Outcome.SUCCESS if touched[self._goal] else Outcome.FAILURE if touched.any() else None
        return Step(self._observe(), self._counter.count(outcome))

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        first, texts = self.reset(start), self.instructions(start.variation)
        action = np.array([*self._discs[self._goal], 0.02, 1, 0, 0, 0, 1], np.float32)
        made, outcome = replay(first, self.step, [action], instructions=texts, variation=self._goal, seed=start.seed)
        return made, outcome or Outcome.TIME_LIMIT

    def film(self, start: EpisodeStart, actions: np.ndarray, *, size: int) -> np.ndarray:
        self.reset(start)
        return np.stack([self._draw(self._eyes[0], size)] * (1 + len(actions)))

    def provenance(self) -> dict[str, str]:
        return {"simulator": "mat", "version": "1", "renderer": "numpy", "expert": "direct"}

    def close(self) -> None: ...

    def _draw(self, eye: np.ndarray, size: int) -> np.ndarray:
        shares = (np.arange(size) + 0.5) / size - 0.5  # of the distance to the mat, from the middle of the image
        x, y = eye[0] - eye[2] * shares[:, None], eye[1] - eye[2] * shares
        image = np.full((size, size, 3), 210, np.uint8)
        for disc, color in zip(self._discs, COLORS.values(), strict=True):
            image[(x - disc[0]) ** 2 + (y - disc[1]) ** 2 < self._radius**2] = color
        return image

    def _observe(self) -> Observation:
        images, text = np.stack([self._draw(eye, self._size) for eye in self._eyes]), self.instructions(self._goal)[0]
        return Observation(images, self._tip, self._intrinsics, self._extrinsics, text)
