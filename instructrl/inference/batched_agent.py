"""Batched inference of a trained agent in many episodes at once, with the keyframe history of each.

from instructrl import BatchedAgent

agent = BatchedAgent.load("outputs/NAME", slots=16, steps=10)
agent.start_episode(3, "reach the red ball")
action = agent.act({3: observation})[3]
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from instructrl.cli.progress import stopwatch
from instructrl.config.environment import DataConfig
from instructrl.config.training import HardwareConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.inference.instruction_check import InstructionCheck, warn, warn_directly
from instructrl.inference.observation_format import ObservationFormat
from instructrl.inference.trained import load_trained
from instructrl.models.agent import Agent
from instructrl.training.distributed.platform import select_platform
from instructrl.training.model_factory import make_agent
from instructrl.training.parameters.load_agent import LoadedAgent, load_agent
from instructrl.types import ACTION_SIZE, Batch, Features, Observation


class BatchedAgent:
    """Acts in up to `slots` episodes of up to `steps` keyframes in lockstep; each image is encoded once.

    Both sizes are fixed, so that an action does not depend on the other slots, to the bit.

    Attributes:
        slots: the number of episodes at once.
        steps: the largest number of keyframes of an episode; another number compiles the agent anew.
        observation_format: of the observations, which are checked; None: they are trusted.
    """

    def __init__(
        self,
        agent: Agent,
        params: Any,
        tokenizer: Tokenizer,
        *,
        slots: int,
        steps: int,
        check: InstructionCheck | None = None,
        observation_format: ObservationFormat | None = None,
    ) -> None:
        """Prepare empty histories; `check` sees the instruction of every episode (None: no check)."""
        self.observation_format = observation_format
        self.params = params
        self._check = check
        self._compiled = False
        self.steps = steps
        self.tokenizer = tokenizer
        self.slots = slots
        self.tokens, self.text_padding_mask = tokenizer([""] * slots)
        self.text: Any = None
        self.history: list[list[dict[str, Any]]] = [[] for _ in range(slots)]
        self.encode = jax.jit(lambda params, *inputs: agent.apply({"params": params}, *inputs, method=Agent.encode))
        self.decode = jax.jit(lambda params, *inputs: agent.apply({"params": params}, *inputs, method=Agent.decode))

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        slots: int,
        steps: int,
        checkpoint: str = "best",
        hardware: HardwareConfig | None = None,
        data: DataConfig | None = None,
        strict: bool = False,
        report: Callable[[str], None] = warn_directly,
    ) -> Self:
        """Load an agent that acts in many episodes at once, and checks what it observes.

        Args:
            run: as for `Agent.load`.
            slots: the number of episodes at once; each call computes as many, also if fewer act.
            steps: the largest number of keyframes of an episode.
            checkpoint: as for `Agent.load`.
            hardware: as for `Agent.load`.
            data: as for `Agent.load`.
            strict: as for `Agent.load`.
            report: takes the message on an instruction with unknown words.

        Raises:
            InputError: the run or its checkpoint does not exist, or a file is missing, damaged or changed.
        """
        trained = load_trained(run, checkpoint=checkpoint, hardware=hardware, data=data)
        return cls.from_trained(trained, slots=slots, steps=steps, strict=strict, report=report, checked=True)

    @classmethod
    def from_trained(
        cls,
        trained: LoadedAgent,
        *,
        slots: int,
        steps: int,
        strict: bool = False,
        report: Callable[[str], None] = warn,
        checked: bool = False,
    ) -> Self:
        """An agent of loaded parameters; `checked`: it checks observations. The rest is as in `load`."""
        network = make_agent(trained.config, vocabulary_size=trained.tokenizer.vocabulary_size)
        check = InstructionCheck(trained.config.encoder, trained.tokenizer, trained.words, strict=strict, report=report)
        form = ObservationFormat.of_run(trained.config) if checked else None
        params = jax.device_put(trained.params)
        return cls(network, params, trained.tokenizer, slots=slots, steps=steps, check=check, observation_format=form)

    def start_episode(self, slot: int, instruction: str) -> None:
        """Clear the slot's history and set the instruction of its next episode.

        Raises:
            InputError: the instruction is too long, or the check refuses it.
        """
        tokens, padding = self.tokenizer([instruction])
        if self._check is not None:
            self._check(instruction)
        self.tokens[slot], self.text_padding_mask[slot] = tokens[0], padding[0]
        self.history[slot] = []

    def act(self, observations: Mapping[int, Observation | Mapping[str, Any]]) -> dict[int, np.ndarray]:
        """The next keyframe action, float32[8], of every slot with an observation.

        Args:
            observations: by slot; their form is that of `Agent.act`. The instruction is that of `start_episode`.

        Raises:
            InputError: an observation does not pass the check, or its episode is too long; no history has changed.
        """
        checked = {slot: self._checked(slot, observation) for slot, observation in observations.items()}
        with stopwatch("compiling the agent") if not self._compiled else nullcontext():
            self.append_observations(checked)
            features, batch = self.history_batch(set(checked))
            decoded = np.asarray(self.decode(self.params, features, batch))
        self._compiled = True
        chosen = {slot: decoded[slot, len(self.history[slot]) - 1] for slot in checked}
        for slot, action in chosen.items():
            self.history[slot][-1]["actions"] = action
        return chosen

    def _checked(self, slot: int, observation: Any) -> Observation:
        if len(self.history[slot]) >= self.steps:
            raise InputError(f"episode: found keyframe {self.steps + 1}; allowed: at most {self.steps}; begin another")
        return observation if self.observation_format is None else self.observation_format.read(observation, "")

    def append_observations(self, observations: dict[int, Observation]) -> None:
        """Encode the new images of all slots in one call and append them to the histories."""
        shape = next(iter(observations.values())).images.shape
        images = np.zeros((self.slots, 1, *shape), np.uint8)
        for slot, observation in observations.items():
            images[slot, 0] = observation.images
        features = self.encode(self.params, images, self.tokens, self.text_padding_mask)
        self.text = np.asarray(features.text)
        pooled = np.asarray(features.pooled)[:, 0]
        patches = None if features.patches is None else np.asarray(features.patches)[:, 0]
        for slot, observation in observations.items():
            self.history[slot].append(
                {
                    "pooled": pooled[slot],
                    "patches": None if patches is None else patches[slot],
                    "state": observation.state,
                    "intrinsics": observation.intrinsics,
                    "extrinsics": observation.extrinsics,
                    "actions": np.zeros(ACTION_SIZE, np.float32),
                }
            )

    def history_batch(self, acting: set[int]) -> tuple[Any, Batch]:
        """The histories of the acting slots, padded at the end to `steps`; the other slots are blank."""
        steps = self.steps
        histories = [history if slot in acting else [] for slot, history in enumerate(self.history)]
        blank = jax.tree.map(np.zeros_like, next(history[0] for history in histories if history))
        frames = [frame for history in histories for frame in history + [blank] * (steps - len(history))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(self.slots, steps, *leaves[0].shape), *frames)
        features = Features(stacked.pop("pooled"), self.text, stacked.pop("patches"))
        mask = np.array([[float(step < len(history)) for step in range(steps)] for history in histories], np.float32)
        return features, Batch(
            images=None, tokens=self.tokens, text_padding_mask=self.text_padding_mask, step_mask=mask, **stacked
        )


def fingerprint(agent: BatchedAgent) -> str:
    """Hash of an agent's parameters, which distinguishes two trainings that reached the same step."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(agent.params):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


def load_batched_agent(
    run: Path,
    *,
    checkpoint: str,
    slots: int,
    steps: int,
    hardware: HardwareConfig,
    strict: bool = False,
    report: Callable[[str], None] = warn,
    beside_renderers: bool = False,
) -> tuple[BatchedAgent, int]:
    """Load the agent of a run's `best` or `last` checkpoint; also returns the checkpoint's step.

    Instructions with words that its training did not have are refused if `strict`, else given to `report`, once each.
    `beside_renderers`: simulators may render on its GPU.

    Raises:
        InputError: there is no run, no readable checkpoint, or its tokenizer or frozen weights are missing
            or have changed.
    """
    select_platform(hardware, beside_renderers=beside_renderers)
    trained = load_agent(run, checkpoint=checkpoint, hardware=hardware)
    return BatchedAgent.from_trained(trained, slots=slots, steps=steps, strict=strict, report=report), trained.step
