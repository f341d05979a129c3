"""The environment interface that every simulator implements."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from instructrl.types import Demonstration, Observation

if TYPE_CHECKING:
    from instructrl.config.evaluation import RLBenchProtocol


class Outcome(StrEnum):
    """Outcome of an episode; each kind is counted separately."""

    SUCCESS = "success"
    FAILURE = "failure"  # the task can no longer succeed, for instance because the wrong object was touched
    UNREACHABLE = "unreachable"  # the commanded pose has no arm configuration or no path
    PLANNER_FAILURE = "planner_failure"  # the pose is reachable, but the simulator's planner found no path
    INVALID_ACTION = "invalid_action"  # not finite, of wrong size, or not a rotation
    TIME_LIMIT = "time_limit"  # the keyframe limit is reached
    SIMULATOR_ERROR = "simulator_error"  # the simulator crashed or hung, even after a restart
    EXPERT_FAILURE = "expert_failure"  # the simulator's own expert produced no demonstration to replay


NO_PATH = frozenset({Outcome.UNREACHABLE, Outcome.PLANNER_FAILURE})  # outcomes tolerated up to a limit


@dataclass(frozen=True)
class EpisodeStart:
    """Everything that determines an episode's initial state: equal starts give bit-identical states and images.

    Except on RLBench while `rejected_placements` is None: its planner, which nobody can seed, decides which of the
    seed's placements is the first that is feasible. With their number the scene is the same again.
    """

    variation: int
    seed: int
    goal: int | None = None  # check success of this variation instead, one of `Env.alternative_goals()` of the scene
    rejected_placements: int | None = None  # placements of the seed that came before this scene, on RLBench
    stored: str = ""  # folder of a stored demonstration whose scene it is; the seed is then the demonstration's number


@dataclass(frozen=True)
class EpisodeLimits:
    """Limits after which an episode ends, as set by an evaluation protocol."""

    max_keyframes: int | None = None  # maximum number of actions; None: the task's own `max_steps`
    max_unreachable: int = 1  # number of unreachable actions that ends the episode; earlier ones only cost a keyframe


class StepCounter:
    """Counts an episode's actions and applies its limits."""

    def __init__(self, limits: EpisodeLimits, *, max_steps: int):
        self.steps = 0
        self._limit, self._unreachable_left = limits.max_keyframes or max_steps, limits.max_unreachable

    def count(self, outcome: Outcome | None) -> Outcome | None:
        """Count one action; return the episode's outcome, given that of the action itself (None: not ended)."""
        self.steps += 1
        over = self.steps >= self._limit
        if outcome in NO_PATH:
            self._unreachable_left -= 1
            return None if self._unreachable_left > 0 and not over else outcome
        return Outcome.TIME_LIMIT if outcome is None and over else outcome


class Step(NamedTuple):
    """Result of an action; `outcome` is None until the episode ends."""

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
    between: Callable[[], Sequence[Observation]] = tuple,
) -> tuple[Demonstration, Outcome | None]:
    """Execute actions [T A] until one ends the episode; records the first frame and one after each action.

    `between` returns what the latest action observed on its way, which is recorded too. Frames are copied when they are
    observed: a simulator may write the next one into the same arrays.
    """
    frames, keyframes, outcome = [copied(first)], list[int](), None
    for action in actions:
        frame, outcome = step(action)
        frames += map(copied, [*between(), frame])
        keyframes.append(len(frames) - 1)
        if outcome is not None:
            break
    demonstration = Demonstration(
        images=np.stack([frame.images for frame in frames]),
        state=np.stack([frame.state for frame in frames]),
        intrinsics=np.stack([frame.intrinsics for frame in frames]),
        extrinsics=np.stack([frame.extrinsics for frame in frames]),
        keyframes=np.array(keyframes, np.int64),
        actions=np.asarray(actions)[: len(keyframes)],
        instructions=instructions,
        variation=variation,
        seed=seed,
    )
    return demonstration, outcome


def copied(observation: Observation) -> Observation:
    """An observation whose arrays nobody else has."""
    names = ("images", "state", "intrinsics", "extrinsics")
    arrays: dict[str, Any] = {name: np.array(getattr(observation, name)) for name in names}
    return observation._replace(**arrays)


class Env(Protocol):
    """One task in one simulator: executes keyframe actions, returns observations and typed outcomes."""

    variations: int  # number of task variations
    max_steps: int  # the task's keyframe limit; the time in the state is relative to it
    limits: EpisodeLimits  # of subsequent episodes; EpisodeLimits() by default

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """The instructions of a variation: those for training, or the held-out ones (none in some simulators)."""
        ...

    def reset(self, start: EpisodeStart) -> Observation:
        """Begin an episode; its instruction is one of the training instructions, chosen by the seed."""
        ...

    def alternative_goals(self) -> tuple[int, ...]:
        """Other variations whose goal exists in the current scene, as a distractor."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """Execute one keyframe action (8 numbers); an invalid action is an outcome, not an exception."""
        ...

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        """Run the expert from a new initial state."""
        ...

    def film(self, start: EpisodeStart, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions from a new initial state; returns a video, uint8 [F, size, size, 3], 10 frames per second."""
        ...

    def provenance(self) -> dict[str, str]:
        """Simulator, version, renderer and expert, to be recorded with generated data."""
        ...

    def close(self) -> None:
        """Release the simulator's resources."""
        ...


@runtime_checkable
class OffersExpert(Protocol):
    """An optional part of an environment: its expert's next action in any state, for the diagnosis of failures."""

    def expert_actions(self) -> list[np.ndarray]:
        """The expert's next action in the current state for each object that an action can go to; nothing is executed.

        Returns:
            For the requested goal first, then for the other objects: actions [N 8] that do the same, for instance with
            the gripper turned by half a turn (of the others, one is enough). Empty if the expert has no further action.
        """
        ...


@runtime_checkable
class ObservesApart(Protocol):
    """An optional part of an environment whose `step` is two calls, so that nothing is drawn that nobody reads."""

    def execute(self, action: np.ndarray) -> Outcome | None:
        """Execute one action, as `Env.step` does; returns its outcome."""
        ...

    def observe(self) -> Observation:
        """The observation of the current state."""
        ...


@runtime_checkable
class RestoresScenes(Protocol):
    """An optional part of an environment whose scenes do not follow from variation and seed alone."""

    @property
    def scene(self) -> EpisodeStart | None:
        """The start of the current episode with all that restores its scene; None if its own start does."""
        ...


@runtime_checkable
class ChecksTasks(Protocol):
    """An optional part of a simulator's class whose tasks depend on what is installed."""

    @classmethod
    def check_tasks(cls, names: Sequence[str]) -> None:
        """Raise InputError if the installation lacks one of these tasks; called once, before any of them is started."""
        ...


@runtime_checkable
class FollowsProtocol(Protocol):
    """An optional part of an environment that plans motions: an evaluation protocol says how it executes actions."""

    def follow(self, choices: "RLBenchProtocol") -> None:
        """Execute the actions of later episodes by these choices.

        Raises:
            InputError: the installed simulator cannot.
        """
        ...


class StoredScenes(NamedTuple):
    """The scenes of a task's stored demonstrations, and a hash of all that restores them."""

    starts: tuple[EpisodeStart, ...]  # in the order of their numbers
    digest: str


@runtime_checkable
class StoresScenes(Protocol):
    """An optional part of a simulator's class whose own stored demonstrations have scenes that can be played again."""

    @classmethod
    def stored_scenes(cls, folder: Path, task: str) -> StoredScenes:
        """The scenes of a task's demonstrations in this folder.

        Raises:
            InputError: there are none, or one of them cannot be restored.
        """
        ...


class Simulator(Env, Protocol):
    """The class of an environment, as the settings of a simulator name it in `implementation`."""

    @classmethod
    def from_config(cls, config: Any, task: str) -> Self:
        """Make an environment for a task.

        Args:
            config: the settings, an instance of the simulator's own subclass of SimConfig.
            task: the task's name.

        Raises:
            InputError: there is no such task or camera, or the renderer does not work here.
        """
        ...

    @classmethod
    def available_renderer(cls, requested: str) -> str:
        """The renderer to use on this machine; `requested` is a value of `sim.renderer`, or recorded in data.

        Raises:
            InputError: there is no such renderer, or it does not work here.
        """
        ...
