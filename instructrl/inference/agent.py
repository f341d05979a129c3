"""Standalone inference of a trained agent: load it from a run and request actions one at a time.

    from instructrl.inference.agent import Agent

    agent = Agent.load("outputs/NAME")
    action = agent.act(observation, "reach the red ball")

Needs no simulator and no demonstrations. (`models/agent.py` is its network.)
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from instructrl.actions import check_action
from instructrl.config.environment import DataConfig
from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError, format_value
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.inference.hub import SCHEME, check_repository, upload
from instructrl.inference.model_card import check_licence, model_card, read_records
from instructrl.inference.observation_format import ObservationFormat
from instructrl.inference.trained import load_trained
from instructrl.storage.paths import StoragePath, storage_path
from instructrl.training.parameters.load_agent import LoadedAgent, export_agent
from instructrl.types import ACTION_SIZES, Observation

FIRST_STEPS = 64  # keyframes of an episode without compiling again; doubled when they are reached


class Agent:
    """One agent in one episode, which it remembers until `reset`.

    Attributes:
        cameras: the cameras whose images it expects, in this order.
        image_size: side length of each image in pixels.
        state: names of the state's numbers, with units.
        workspace: the box, in metres, in which its actions lie.
        step: training step of the checkpoint.
    """

    def __init__(self, trained: LoadedAgent, *, strict: bool = False) -> None:
        """Prepare an agent; `strict` as in `load`."""
        self.observation_format = ObservationFormat.of_run(trained.config)
        self.cameras, self.image_size = self.observation_format.cameras, self.observation_format.image_size
        self.state, self.workspace, self.step = self.observation_format.state, trained.config.sim.bounds, trained.step
        self._trained = trained
        self._batched = BatchedAgent.from_trained(trained, slots=1, steps=FIRST_STEPS, strict=strict)
        self._instruction: str | None = None
        self._run: StoragePath | None = None  # with records of its training and its evaluations

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        checkpoint: str = "best",
        hardware: HardwareConfig | None = None,
        data: DataConfig | None = None,
        strict: bool = False,
    ) -> Self:
        """Load the agent of a run directory or of a folder written by `save`; both may be in object storage.

        Args:
            run: the directory that train.py printed, or hf://USER/NAME of an agent that `push_to_hub` published.
            checkpoint: "best" by validation loss, or "last"; ignored for a folder written by `save`.
            hardware: device and precision; None: jax's default device, and float32.
            data: settings of the local cache for object storage.
            strict: refuse instructions with words that no instruction of the training had. Without it, they are
                reported once each by an `UnknownWordsWarning`.

        Raises:
            InputError: the run or its checkpoint does not exist, or a file is missing, damaged or changed.
        """
        agent = cls(load_trained(run, checkpoint=checkpoint, hardware=hardware, data=data), strict=strict)
        agent._run = None if str(run).startswith(SCHEME) else storage_path(run, data)
        return agent

    def save(self, folder: str | Path) -> None:
        """Export the agent to a folder: `config.yaml` and `agent.safetensors`, without optimizer state.

        Raises:
            InputError: the folder is a run, or it cannot be written.
        """
        export_agent(Path(folder), self._trained)

    def push_to_hub(self, repository: str, *, private: bool, licence: str) -> str:
        """Publish the agent on the Hugging Face hub, as `save` writes it, with a model card; returns its address.

        The card says how to use the agent, its settings, and what the run records of its data and evaluations.

        Args:
            repository: USER/NAME; created if it does not exist.
            private: whether only the user can read a repository that is created.
            licence: of the agent, as the hub names it, such as "mit".

        Raises:
            InputError: the name or the licence is none, or the hub refuses the user.
            RunError: the hub does not answer.
        """
        check_licence(licence)
        check_repository(repository, key="repository")
        with tempfile.TemporaryDirectory(prefix="instructrl-") as folder:
            self.save(folder)
            records = read_records(self._run)
            card = model_card(self._trained, records, repository=repository, licence=licence)
            Path(folder, "README.md").write_text(card, encoding="utf-8")
            return upload(Path(folder), repository, private=private, message=f"Agent of step {self.step}")

    def reset(self) -> None:
        """Forget the episode; the next action is the first of a new episode."""
        self._instruction = None

    def act(self, observation: Observation | Mapping[str, Any], instruction: str) -> np.ndarray:
        """The next action, float32 [8]: position (m, world), quaternion x y z w, gripper open in {0, 1}.

        It is a keyframe, or with a head of dense actions a pose to be drawn towards for one step of time. Of a run with
        sim.actions=keyframe_collisions it has a ninth number: 1 if the path may collide.

        Args:
            observation: of this step. A mapping has, like those of `instructrl.sim.gym`, for each
                camera `NAME_rgb` uint8 [H W 3], `NAME_intrinsics` [3 3] and `NAME_extrinsics` [4 4] (camera to world,
                metres), and `state`: the numbers that the attribute `state` names, such as gripper open, two finger
                positions in metres and time in [-1, 1].
            instruction: the same throughout an episode.

        Raises:
            InputError: a camera is missing, an array has a wrong shape or type, the instruction is too long, changes
                within the episode, or has unknown words for a strict agent, the state or a camera matrix has numbers
                that no scene has, or the policy's answer is not finite.
        """
        checked = self.observation_format.read(observation, instruction)
        if self._instruction is None:
            self._batched.start_episode(0, instruction)
            self._instruction = instruction
        elif instruction != self._instruction:
            raise InputError(
                f"instruction: found {format_value(instruction)} in an episode with {format_value(self._instruction)}; "
                "call reset() before another episode"
            )
        while self._batched.is_full(0):
            self._batched.steps *= 2
        action = self._batched.act({0: checked})[0]
        check_action(action, sizes=ACTION_SIZES)  # not finite if the policy diverged in training
        return action
