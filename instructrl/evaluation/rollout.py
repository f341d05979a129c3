"""Batched rollouts of a policy: simulators step in lockstep, with one batched policy call per step."""

import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from instructrl.actions import check_action, stack_actions
from instructrl.errors import InputError
from instructrl.evaluation.diagnosis import Deviation, Diagnosis, diagnose
from instructrl.sim import EpisodeStart, Outcome
from instructrl.sim.vector.pool import Request, WorkerFailure, Workers
from instructrl.types import ACTION_SIZES, Observation


class Policy(Protocol):
    """A policy that acts in several episodes at once and keeps each slot's history between calls."""

    def start_episode(self, slot: int, instruction: str) -> None:
        """Begin a new episode in this slot: clear its history."""
        ...

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        """The next action [8] of every given slot."""
        ...


@dataclass(frozen=True)
class EpisodeSpec:
    """An episode to run; without an instruction, the environment chooses one by the seed."""

    start: EpisodeStart
    instruction: str | None = None
    drop_word: bool = False  # leave one word of the instruction out, chosen by the seed


@dataclass(frozen=True)
class Episode:
    """A finished episode: enough to count it and to render it by replay."""

    start: EpisodeStart
    instruction: str
    outcome: Outcome
    actions: np.ndarray  # T A, float64, as the simulator received them
    deviations: tuple[Deviation, ...] = ()  # of the first actions from the expert's, as far as the expert has any
    dropped_word: str = ""  # that the instruction lacks

    @property
    def steps(self) -> int:
        """Number of executed keyframe actions."""
        return len(self.actions)

    @property
    def success(self) -> bool:
        """True if the task succeeded."""
        return self.outcome is Outcome.SUCCESS

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The cause of a failure; None after a success, or if no action was compared with the expert's."""
        if self.success or (len(self.actions) and not self.deviations):
            return None
        return diagnose(self.outcome, self.deviations)


class _Slot:
    """One slot: the episodes still to run, and the current one."""

    def __init__(self, waiting: list[int]):
        self.waiting = deque(waiting)
        self.index = -1
        self.start: EpisodeStart | None = None  # with what restores the scene
        self.instruction = self.dropped_word = ""
        self.actions: list[np.ndarray] = []
        self.deviations: list[Deviation] = []


class _BatchedRollout:
    """The state of all slots between two policy calls."""

    def __init__(self, slots: int, specs: Mapping[int, EpisodeSpec], on_episode: Callable[[int, Episode], None] | None):
        self._specs, self._on_episode = specs, on_episode
        self._slots = [_Slot([i for i in sorted(specs) if i % slots == slot]) for slot in range(slots)]
        self.done: dict[int, Episode] = {}

    def receive(self, results: Mapping[int, Any], policy: Policy) -> dict[int, Observation]:
        """Process the simulators' results; return the observations that need an action."""
        observations = {}
        for slot in sorted(results):
            slot_state, result = self._slots[slot], results[slot]
            if isinstance(result, WorkerFailure):
                self._finish(slot_state, Outcome.SIMULATOR_ERROR)
            elif isinstance(result, Observation):
                spec = self._specs[slot_state.index]
                slot_state.instruction = result.instruction if spec.instruction is None else spec.instruction
                if spec.drop_word:
                    slot_state.instruction, slot_state.dropped_word = without_a_word(
                        slot_state.instruction, seed=spec.start.seed
                    )
                policy.start_episode(slot, slot_state.instruction)
                observations[slot] = result
            else:
                if result.deviation is not None:
                    slot_state.deviations.append(result.deviation)
                slot_state.start = result.scene or slot_state.start
                if result.outcome is None:
                    observations[slot] = result.observation
                else:
                    self._finish(slot_state, result.outcome)
        return {
            slot: observation._replace(instruction=self._slots[slot].instruction)
            for slot, observation in observations.items()
        }

    def requests(self, actions: Mapping[int, np.ndarray]) -> dict[int, Request]:
        """The next simulator calls: the policy's actions, and new episodes in free slots."""
        requests: dict[int, Request] = {}
        for slot, slot_state in enumerate(self._slots):
            if slot in actions:
                try:
                    slot_state.actions.append(check_action(actions[slot], sizes=ACTION_SIZES))
                except InputError:
                    self._finish(slot_state, Outcome.INVALID_ACTION)
                else:
                    requests[slot] = ("step", (slot_state.actions[-1],))
            if slot not in requests and slot_state.waiting:
                requests[slot] = ("reset", (self._next(slot_state).start,))
        return requests

    def _next(self, slot_state: _Slot) -> EpisodeSpec:
        slot_state.index = slot_state.waiting.popleft()
        spec = self._specs[slot_state.index]
        slot_state.start = spec.start
        slot_state.instruction, slot_state.dropped_word = spec.instruction or "", ""
        slot_state.actions, slot_state.deviations = [], []
        return spec

    def _finish(self, slot_state: _Slot, outcome: Outcome) -> None:
        actions = stack_actions(slot_state.actions)
        start, deviations = slot_state.start or self._specs[slot_state.index].start, tuple(slot_state.deviations)
        episode = Episode(start, slot_state.instruction, outcome, actions, deviations, slot_state.dropped_word)
        self.done[slot_state.index] = episode
        if self._on_episode is not None:
            self._on_episode(slot_state.index, episode)


def print_warning(message: str) -> None:
    """Print a warning in one line on standard error, above a progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def without_a_word(sentence: str, *, seed: int) -> tuple[str, str]:
    """Leave out one word of a sentence, chosen by the seed; returns the rest and that word."""
    words = sentence.split()
    if not words:
        return "", ""
    index = int(np.random.default_rng(seed).integers(len(words)))
    return " ".join(words[:index] + words[index + 1 :]), words[index]


def run_rollouts(
    workers: Workers,
    policy: Policy,
    *,
    specs: Mapping[int, EpisodeSpec],
    on_episode: Callable[[int, Episode], None] | None = None,
) -> dict[int, Episode]:
    """Run every episode and return them by index; `on_episode` is called as soon as each ends.

    Episode i runs in slot i % slots, after that slot's smaller indices, so results do not depend on timing.
    """
    rollout = _BatchedRollout(len(workers), specs, on_episode)
    requests = rollout.requests({})
    while requests:
        observations = rollout.receive(workers.call(requests), policy)
        requests = rollout.requests(policy.act(observations) if observations else {})
    return {index: rollout.done[index] for index in sorted(rollout.done)}
