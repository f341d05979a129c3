"""The door between the suite and any simulator: what an environment takes and gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from instructrl.batch import Demonstration, Observation


class Outcome(StrEnum):
    """How an episode ended; each is counted apart."""

    SUCCESS = "success"
    FAILURE = "failure"  # the task can no longer succeed, for instance the wrong object was touched
    UNREACHABLE = "unreachable"  # no arm configuration or path leads to the commanded pose
    PLANNER_FAILURE = "planner_failure"  # the pose can be reached, but the simulator's planner found no way there
    INVALID_ACTION = "invalid_action"  # not finite, wrong size, or not a rotation
    TIME_LIMIT = "time_limit"  # the allowed keyframes are used up
    SIMULATOR_ERROR = "simulator_error"  # the simulator died or hung, also after a restart
    EXPERT_FAILURE = "expert_failure"  # the simulator's own expert gave no demonstration to replay


PATHLESS = frozenset({Outcome.UNREACHABLE, Outcome.PLANNER_FAILURE})  # ends that the rules may forgive


@dataclass(frozen=True)
class Start:
    """Names an episode completely: the same start gives the same states and images, bit for bit."""

    variation: int
    seed: int
    goal: int | None = None  # judge this variation instead, one of `Env.rivals()` of the same scene


@dataclass(frozen=True)
class Rules:
    """When an episode is given up; the protocol of an evaluation says so."""

    keyframes: int | None = None  # actions that it may take; None: the task's own `max_steps`
    tries: int = 1  # the so many-th action that no path leads to ends it; those before only cost a keyframe


class Tally:
    """The actions of one episode, counted by the rules; every environment keeps one."""

    def __init__(self, rules: Rules, *, max_steps: int):
        self.steps = 0
        self._limit, self._tries = rules.keyframes or max_steps, rules.tries

    def count(self, outcome: Outcome | None) -> Outcome | None:
        """How the episode stands after one more action, which by itself would end it so (None: not)."""
        self.steps += 1
        over = self.steps >= self._limit
        if outcome in PATHLESS:
            self._tries -= 1
            return None if self._tries > 0 and not over else outcome
        return Outcome.TIME_LIMIT if outcome is None and over else outcome


class Step(NamedTuple):
    """What follows an action; `outcome` is None while the episode goes on."""

    observation: Observation
    outcome: Outcome | None


def replay(
    first: Observation,
    step: Callable[[np.ndarray], Step],
    actions: Sequence[np.ndarray] | np.ndarray,
    *,
    instructions: tuple[str, ...],
    variation: int,
    seed: int,
) -> tuple[Demonstration, Outcome | None]:
    """Take actions [T 8] from the episode's first frame until one ends it: a frame at the start and after each."""
    frames, outcome = [first], None
    for action in actions:
        frame, outcome = step(action)
        frames.append(frame)
        if outcome is not None:
            break
    taken = len(frames) - 1
    demonstration = Demonstration(
        images=np.stack([frame.images for frame in frames]),
        state=np.stack([frame.state for frame in frames]),
        intrinsics=np.stack([frame.intrinsics for frame in frames]),
        extrinsics=np.stack([frame.extrinsics for frame in frames]),
        keyframes=np.arange(1, taken + 1, dtype=np.int64),
        actions=np.asarray(actions)[:taken],
        instructions=instructions,
        variation=variation,
        seed=seed,
    )
    return demonstration, outcome


class Env(Protocol):
    """One task in one simulator. Keyframe actions in, observations and typed outcomes out."""

    variations: int  # how many variations the task has
    max_steps: int  # keyframes that the task allows in an episode; the time in the state is told in them
    rules: Rules  # of the episodes to come; Rules() unless set

    def sentences(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """The ways to ask for a variation: those for training, or those kept for testing (none in some simulators)."""
        ...

    def reset(self, start: Start) -> Observation:
        """Begin an episode; its instruction is one of the training sentences, chosen by the seed."""
        ...

    def rivals(self) -> tuple[int, ...]:
        """Other variations that could be asked for in the present scene (a distractor is there to meet them)."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """Execute one keyframe action (8 numbers); a bad action is an outcome, not an exception."""
        ...

    def demonstrate(self, start: Start) -> tuple[Demonstration, Outcome]:
        """Run the expert from a fresh start."""
        ...

    def film(self, start: Start, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions from a fresh start and return a video, uint8 [F, size, size, 3], 10 frames a second."""
        ...

    def provenance(self) -> dict[str, str]:
        """Simulator, its version, renderer and expert: what must be recorded beside data made here."""
        ...

    def close(self) -> None:
        """Free the simulator's resources."""
        ...
