"""Environment wrapper that runs in evaluation workers: one message per multi-step call.

It needs no package but numpy: the workers may run in the simulator's own interpreter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from instructrl.config.environment import SimConfig
from instructrl.config.evaluation import RLBenchProtocol
from instructrl.evaluation.diagnosis import Deviation, compare
from instructrl.sim import (
    Env,
    EpisodeLimits,
    EpisodeStart,
    FollowsProtocol,
    ObservesApart,
    OffersExpert,
    Outcome,
    RestoresScenes,
    make_checked_env,
)
from instructrl.types import Observation


@dataclass(frozen=True)
class TaskInfo:
    """Static properties of a task that an evaluation needs."""

    task: str
    max_steps: int  # keyframe limit of an episode
    variations: tuple[int, ...]  # the evaluated ones, in evaluation order
    trained: tuple[int, ...]  # those with demonstrations
    instructions: Mapping[int, tuple[str, ...]]  # of every variation, also of those that are only alternative goals
    held_out_instructions: Mapping[int, tuple[str, ...]]
    provenance: Mapping[str, str]
    expert: bool = False  # True if the simulator offers its expert's actions in any state


class ComparedStep(NamedTuple):
    """A `Step`, how far its action was from the expert's, and what restores the scene where the seed does not."""

    observation: Observation | None  # None at the end of an episode: no policy sees it
    outcome: Outcome | None
    deviation: Deviation | None  # None if the expert has no action in that state
    scene: EpisodeStart | None = None


class EvalEnv:
    """The part of `Env` that rollouts need, and multi-step calls whose intermediate observations stay in the worker."""

    def __init__(
        self,
        env: Env,
        limits: EpisodeLimits = EpisodeLimits(),  # noqa: B008  (immutable)
        choices: RLBenchProtocol | None = None,
    ):
        self._env = env
        self._expert = env if isinstance(env, OffersExpert) else None
        self._expert_gripper: float | None = None  # in the expert's previous action
        env.limits = limits
        if choices is not None and isinstance(env, FollowsProtocol):
            env.follow(choices)

    def reset(self, start: EpisodeStart) -> Observation:
        self._expert_gripper = None
        return self._env.reset(start)

    def step(self, action: np.ndarray) -> ComparedStep:
        deviation = self._compare(action)
        scene = self._env.scene if isinstance(self._env, RestoresScenes) else None
        if isinstance(self._env, ObservesApart):
            outcome = self._env.execute(action)
            return ComparedStep(None if outcome is not None else self._env.observe(), outcome, deviation, scene)
        observation, outcome = self._env.step(action)
        return ComparedStep(None if outcome is not None else observation, outcome, deviation, scene)

    def _compare(self, action: np.ndarray) -> Deviation | None:
        experts = self._expert.expert_actions() if self._expert is not None else []
        if not experts:
            return None
        deviation = compare(action, experts, before=self._expert_gripper)
        self._expert_gripper = float(experts[0][0, 7])
        return deviation

    def close(self) -> None:
        self._env.close()

    def task_info(self, task: str, variations: Sequence[int] | None) -> TaskInfo:
        """Properties of the task; `variations`, the trained and evaluated ones, None means all."""
        every = range(self._env.variations)
        chosen = tuple(every if variations is None else variations)
        return TaskInfo(
            task=task,
            max_steps=self._env.limits.max_keyframes or self._env.max_steps,
            variations=chosen,
            trained=chosen,
            instructions={variation: self._env.instructions(variation) for variation in every},
            held_out_instructions={variation: self._env.instructions(variation, held_out=True) for variation in every},
            provenance=self._env.provenance(),
            expert=self._expert is not None,
        )

    def alternative_goals(self, start: EpisodeStart) -> tuple[int, ...]:
        """Other variations whose goals exist in this scene."""
        self._env.reset(start)
        return self._env.alternative_goals()

    def expert(self, start: EpisodeStart) -> tuple[np.ndarray, Outcome]:
        """The expert's actions [T, 8] and their outcome, without the images."""
        demonstration, outcome = self._env.demonstrate(start)
        return demonstration.actions, outcome

    def film(self, start: EpisodeStart, actions: np.ndarray, size: int) -> np.ndarray:
        """Replay the episode as a video [F, size, size, 3]."""
        return self._env.film(start, actions, size=size)


def make_eval_env(sim: SimConfig, task: str, limits: EpisodeLimits, choices: RLBenchProtocol | None = None) -> EvalEnv:
    """Create the environment of a worker process."""
    return EvalEnv(make_checked_env(sim, task), limits, choices)
