"""A trained agent outside of the suite: loaded from a run, asked for one action after the other.

    from instructrl.evaluation.agent import Agent

    agent = Agent.load("outputs/NAME")
    action = agent.act(observation, "reach the red ball")

No simulator and no demonstrations are needed. (`models/agent.py` is the network behind it.)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from instructrl.batch import STATE_SIZE, Observation
from instructrl.config import DataConfig, HardwareConfig
from instructrl.data.mirror import workshop
from instructrl.data.storage import place
from instructrl.errors import InputError
from instructrl.evaluation.actor import AgentActor
from instructrl.schema import shown
from instructrl.training.hardware import select_platform
from instructrl.training.state import make_agent
from instructrl.training.trained import Trained, export, read_trained

CHECKPOINTS = ("best", "last")
FIRST_STEPS = 8  # keyframes that a history has room for; the room is doubled when it is full


class Agent:
    """One agent in one episode. It remembers the episode's keyframes until `reset`.

    Attributes:
        cameras: whose images it expects, in this order.
        image_size: pixels along a side of each.
        step: of the training, after which its parameters were saved.
    """

    def __init__(self, trained: Trained) -> None:
        config = trained.config
        self.cameras, self.image_size, self.step = tuple(config.sim.cameras), config.sim.image_size, trained.step
        self._trained = trained
        network = make_agent(config, vocabulary_size=trained.tokenizer.vocabulary_size)
        params = jax.device_put(trained.params)
        self._actor = AgentActor(network, params, trained.tokenizer, slots=1, steps=FIRST_STEPS)
        self._instruction: str | None = None

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        checkpoint: str = "best",
        hardware: HardwareConfig | None = None,
        data: DataConfig | None = None,
    ) -> Self:
        """The agent of a run directory, or of a folder that `save` wrote; both may be in a bucket.

        Args:
            run: the directory that train.py printed.
            checkpoint: "best" by validation loss, or "last"; of no account for a folder that `save` wrote.
            hardware: device and precision; None for what jax finds, and float32.
            data: where copies of what lies in a bucket are kept.

        Raises:
            InputError: there is no such run or no checkpoint in it, or a file is missing, damaged or changed.
        """
        if checkpoint not in CHECKPOINTS:
            raise InputError(f"checkpoint: found {shown(checkpoint)}; allowed: {', '.join(CHECKPOINTS)}")
        hardware = hardware or HardwareConfig("auto")
        select_platform(hardware)
        with workshop(place(run, data), alone=False) as shop:
            return cls(read_trained(shop.folder, checkpoint=checkpoint, hardware=hardware))

    def save(self, folder: str | Path) -> None:
        """Write what acting needs into a folder: `config.yaml` and `agent.safetensors`, no optimizer state.

        Raises:
            InputError: a run is there, or it cannot be written.
        """
        export(Path(folder), self._trained)

    def reset(self) -> None:
        """Forget the episode; the next action is the first of another one."""
        self._instruction = None

    def act(self, observation: Observation | Mapping[str, Any], instruction: str) -> np.ndarray:
        """The next keyframe: position (m, world), quaternion x y z w, gripper open in {0, 1}; float32 [8].

        Args:
            observation: what is seen at this keyframe. A mapping has, as those of `instructrl.sim.gym`, for each
                camera `NAME_rgb` uint8 [H W 3], `NAME_intrinsics` [3 3] and `NAME_extrinsics` [4 4] (camera to world,
                metres), and `state` [4]: gripper open, two finger positions in metres, time in [-1, 1].
            instruction: what is to be done, the same in the whole episode.

        Raises:
            InputError: a camera is missing, an array has another shape or type, or the sentence is too long or
                changes within the episode.
        """
        seen = self._checked(observation, instruction)
        if self._instruction is None:
            self._actor.begin(0, instruction)
            self._instruction = instruction
        elif instruction != self._instruction:
            raise InputError(
                f"instruction: found {shown(instruction)} in an episode that began with {shown(self._instruction)}; "
                "call reset() before another episode"
            )
        while len(self._actor.history[0]) >= self._actor.steps:
            self._actor.steps *= 2
        return self._actor.act({0: seen})[0]

    def _checked(self, observation: Observation | Mapping[str, Any], instruction: str) -> Observation:
        seen = observation if isinstance(observation, Observation) else self._gathered(observation, instruction)
        views, size = len(self.cameras), self.image_size
        expected = {
            "images": ((views, size, size, 3), np.uint8),
            "state": ((STATE_SIZE,), np.float32),
            "intrinsics": ((views, 3, 3), np.float32),
            "extrinsics": ((views, 4, 4), np.float32),
        }
        arrays = {name: np.asarray(getattr(seen, name)) for name in expected}
        for name, (shape, dtype) in expected.items():
            found = arrays[name]
            if found.shape != shape or not np.can_cast(found.dtype, dtype, "same_kind"):
                raise InputError(
                    f"observation.{name}: found {found.dtype}{found.shape}, expected {np.dtype(dtype)}{shape}: this "
                    f"agent sees with {', '.join(self.cameras)}, images of {size} pixels"
                )
        return Observation(
            **{name: found.astype(expected[name][1]) for name, found in arrays.items()}, instruction=instruction
        )

    def _gathered(self, observation: Mapping[str, Any], instruction: str) -> Observation:
        """An observation from a mapping of arrays by camera."""
        keys = [f"{name}_{what}" for what in ("rgb", "intrinsics", "extrinsics") for name in self.cameras]
        for key in (*keys, "state"):
            if key not in observation:
                raise InputError(
                    f"observation: found no {key}, only {', '.join(map(str, observation))}; this agent sees with "
                    f"{', '.join(self.cameras)}"
                )
        rows = [
            [np.asarray(observation[f"{name}_{what}"]) for name in self.cameras]
            for what in ("rgb", "intrinsics", "extrinsics")
        ]
        for name, image in zip(self.cameras, rows[0], strict=True):
            if image.shape != (self.image_size, self.image_size, 3):
                raise InputError(
                    f"observation: found {name}_rgb of shape {image.shape}, expected "
                    f"{(self.image_size, self.image_size, 3)}, as this agent was trained"
                )
        try:
            images, intrinsics, extrinsics = map(np.stack, rows)
        except ValueError:
            raise InputError(
                "observation: the cameras' matrices have different shapes; expected [3 3] and [4 4]"
            ) from None
        return Observation(images, np.asarray(observation["state"]), intrinsics, extrinsics, instruction)
