"""Batched inference of a trained agent in many episodes at once, with a memory of each.

from instructrl import BatchedAgent

agent = BatchedAgent.load("outputs/NAME", slots=16, steps=10)
agent.start_episode(3, "reach the red ball")
action = agent.act({3: observation})[3]
"""

import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from instructrl.cli.progress import stopwatch
from instructrl.config.environment import DataConfig
from instructrl.config.heads import ChunkConfig, history_window
from instructrl.config.training import HardwareConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.inference.instruction_check import InstructionCheck, warn, warn_directly
from instructrl.inference.observation_format import ObservationFormat
from instructrl.inference.trained import load_trained
from instructrl.models.agent import Agent
from instructrl.models.layers.transformer import MEMORY, NEW_MEMORY
from instructrl.models.policy_memory import MemoryLayout, NextStep, next_step, recall, remember, resize
from instructrl.training.distributed.platform import select_platform
from instructrl.training.model_factory import make_agent
from instructrl.training.parameters.load_agent import LoadedAgent, load_agent
from instructrl.types import ACTION_SIZE, Batch, Observation

CAPACITY_UNIT = 16  # keyframes; the memory has room for a multiple, so that most episodes share a compiled program


class BatchedAgent:
    """Acts in up to `slots` episodes of up to `steps` keyframes in lockstep; an action computes one keyframe.

    Both sizes are fixed, so that an action does not depend on the other slots, to the bit. A head of dense actions
    predicts a chunk of them, of which the first `head.execute` are given out one by one before it is asked again, with
    the last `policy.window` observations; episodes then have any length.

    Attributes:
        slots: the number of episodes at once.
        steps: the largest number of keyframes of an episode; a much larger one compiles the agent anew.
        taken: int [slots], the number of steps of each episode that the memory holds.
        heatmaps: float32 [slots, cameras, side, side], the shares of the images' patches in which the head saw the last
            actions; None before the first, and for heads without heatmaps.
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
        """Begin without episodes; `check` sees the instruction of every episode (None: no check)."""
        self.observation_format = observation_format
        self.params = params
        self._agent, self._check = agent, check
        self._compiled = False
        self.steps = steps
        self.tokenizer = tokenizer
        self.slots = slots
        self.tokens, self.text_padding_mask = tokenizer([""] * slots)
        self.taken = np.zeros(slots, int)
        self._action_size = ACTION_SIZE + agent.collisions
        self._last_actions = np.zeros((slots, 1, self._action_size), np.float32)
        self.heatmaps: jax.Array | None = None
        self._planned: list[deque[np.ndarray]] = [deque() for _ in range(slots)]  # dense actions to give out
        self._execute = agent.head_config.execute if isinstance(agent.head_config, ChunkConfig) else 1
        self._window = history_window(agent.head_config, agent.policy_config)
        # with a window: of each slot, the last observations, and the action before each
        self._recent: list[deque[tuple[Observation, np.ndarray]]] = [deque(maxlen=self._window) for _ in range(slots)]
        self._memory: Any = None
        self._act = jax.jit(partial(_act, agent), donate_argnums=1)

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
            steps: the largest number of keyframes of an episode; of dense actions there may be more.
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
        """Begin an episode in a slot.

        Raises:
            InputError: the instruction is too long, or the check refuses it.
        """
        tokens, padding = self.tokenizer([instruction])
        if self._check is not None:
            self._check(instruction)
        self.tokens[slot], self.text_padding_mask[slot] = tokens[0], padding[0]
        self.taken[slot] = 0
        self._last_actions[slot] = 0
        self._planned[slot].clear()
        self._recent[slot].clear()

    def act(self, observations: Mapping[int, Observation | Mapping[str, Any]]) -> dict[int, np.ndarray]:
        """The next action, float32[8], or [9] with a collision flag, of every slot with an observation.

        Args:
            observations: by slot; their form is that of `Agent.act`. The instruction is that of `start_episode`.

        Raises:
            InputError: an observation does not pass the check, or its episode is too long; no episode has changed.
        """
        checked = {slot: self._checked(slot, observation) for slot, observation in observations.items()}
        with stopwatch("compiling the agent") if not self._compiled else nullcontext():
            self._plan(checked)
        self._compiled = True
        chosen = {slot: self._planned[slot].popleft() for slot in checked}
        for slot, action in chosen.items():
            self._last_actions[slot] = action
        return chosen

    def is_full(self, slot: int) -> bool:
        """Return True if a slot's episode has as many keyframes as it may have."""
        return self._window is None and self.taken[slot] >= self.steps

    def _checked(self, slot: int, observation: Any) -> Observation:
        if self.is_full(slot):
            raise InputError(f"episode: found keyframe {self.steps + 1}; allowed: at most {self.steps}; begin another")
        return observation if self.observation_format is None else self.observation_format.read(observation, "")

    def _plan(self, observations: Mapping[int, Observation]) -> None:
        """Take in observations, and predict the next actions of the slots that have none left."""
        waiting = {slot for slot in observations if not self._planned[slot]}
        if self._window is not None:
            for slot, observation in observations.items():
                self._recent[slot].append((observation, self._last_actions[slot].copy()))
            if not waiting:
                return
        predicted = self._step(observations) if self._window is None else self._steps_of_window(waiting)
        for slot in waiting:
            self._planned[slot].extend(predicted[slot].reshape(-1, self._action_size)[: self._execute])

    def _steps_of_window(self, slots: set[int]) -> np.ndarray:
        """Predict from the last observations alone, whose steps are counted from the first of them, as in training."""
        windows = {slot: list(self._recent[slot]) for slot in slots}
        self.taken[list(slots)] = 0
        for age in range(max(map(len, windows.values())), 0, -1):
            seen = {slot: window[-age] for slot, window in windows.items() if len(window) >= age}
            for slot, (_, action) in seen.items():
                self._last_actions[slot] = action
            predicted = self._step({slot: observation for slot, (observation, _) in seen.items()})
        return predicted

    def _step(self, observations: Mapping[int, Observation]) -> np.ndarray:
        """One call of the network for all slots; what it answers for those without an observation means nothing."""
        batch = self._batch(observations)
        layout = self._layout(batch)
        self._fit_memory(batch, layout)
        acting = np.isin(np.arange(self.slots), list(observations))
        step = next_step(self.taken, acting, layout)
        predicted, self.heatmaps, self._memory = self._act(self.params, self._memory, batch, step)
        self.taken += acting
        return np.asarray(predicted)

    def _batch(self, observations: Mapping[int, Observation]) -> Batch:
        """The observations as a batch of one step (T = 1); those of the other slots are blank."""
        arrays = {slot: observation[:-1] for slot, observation in observations.items()}  # all but the instruction
        blank = tuple(np.zeros_like(array) for array in next(iter(arrays.values())))
        rows = [arrays.get(slot, blank) for slot in range(self.slots)]
        images, state, intrinsics, extrinsics = (np.stack(leaves)[:, None] for leaves in zip(*rows, strict=True))
        return Batch(
            images=images,
            state=state,
            intrinsics=intrinsics,
            extrinsics=extrinsics,
            tokens=self.tokens,
            text_padding_mask=self.text_padding_mask,
            actions=self._last_actions,
            step_mask=np.ones((self.slots, 1), np.float32),
        )

    def _layout(self, batch: Batch) -> MemoryLayout:
        """Sizes of the memory that the policy needs."""
        policy = self._agent.policy_config
        return MemoryLayout(
            observations=batch.intrinsics.shape[2] + batch.state.shape[2],
            capacity=policy.window or -(-self.steps // CAPACITY_UNIT) * CAPACITY_UNIT,
            window=policy.window,
            width=policy.dim,
        )

    def _fit_memory(self, batch: Batch, layout: MemoryLayout) -> None:
        """Begin a memory, or make it fit another number of keyframes; episodes go on."""
        if self._memory is None:
            step = next_step(self.taken, np.zeros(self.slots, bool), layout)
            step = step._replace(mask=step.mask[..., layout.tokens :])  # of new tokens alone
            new = jax.eval_shape(partial(_new_memory, self._agent), self.params, batch, step)
            self._memory = jax.tree.map(lambda leaf: np.zeros((self.slots, 0, *leaf.shape[2:]), leaf.dtype), new)
        if jax.tree.leaves(self._memory)[0].shape[1] != layout.tokens:
            self._memory = resize(self._memory, layout.tokens)


def _act(agent: Agent, params: Any, memory: Any, batch: Batch, step: NextStep) -> tuple[jax.Array, Any, Any]:
    """The network's predictions for every episode, its heatmaps, and the memory that the next step needs."""
    variables = {"params": params, MEMORY: recall(memory, step)}
    (predicted, heatmaps), added = agent.apply(variables, batch, step, method=Agent.act, mutable=[NEW_MEMORY])
    return predicted, heatmaps, remember(memory, added[NEW_MEMORY], step)


def _new_memory(agent: Agent, params: Any, batch: Batch, step: NextStep) -> Any:
    """Keys and values that one step adds to a memory."""
    _, added = agent.apply({"params": params}, batch, step, method=Agent.act, mutable=[NEW_MEMORY])
    return added[NEW_MEMORY]


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
