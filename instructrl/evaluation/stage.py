"""An environment as an evaluation's worker processes hold it: whole errands, each one message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from instructrl.batch import Observation
from instructrl.config import SimConfig
from instructrl.errors import SimulatorError
from instructrl.sim import Env, Outcome, Rules, Start, Step, make_env
from instructrl.sim.workers import WorkerFailure, Workers, worker_count


@dataclass(frozen=True)
class TaskFacts:
    """What an evaluation needs to know of a task."""

    task: str
    max_steps: int  # keyframes that an episode may take
    variations: tuple[int, ...]  # those that are judged, in the order in which they come up
    trained: tuple[int, ...]  # those that the demonstrations show
    sentences: Mapping[int, tuple[str, ...]]  # of every variation, also those that are only rivals
    held_out: Mapping[int, tuple[str, ...]]
    provenance: Mapping[str, str]


class Stage:
    """`Env` as far as rollouts need it, and errands around it. Nothing but an episode's answers is sent back."""

    def __init__(self, env: Env, rules: Rules = Rules()):  # noqa: B008  (it cannot change)
        self._env = env
        env.rules = rules

    def reset(self, start: Start) -> Observation:
        return self._env.reset(start)

    def step(self, action: np.ndarray) -> Step:
        return self._env.step(action)

    def close(self) -> None:
        self._env.close()

    def facts(self, task: str, variations: Sequence[int] | None) -> TaskFacts:
        """The task's sentences and the simulator's provenance; `variations` (trained, and judged) None means all."""
        every = range(self._env.variations)
        chosen = tuple(every if variations is None else variations)
        return TaskFacts(
            task=task,
            max_steps=self._env.rules.keyframes or self._env.max_steps,
            variations=chosen,
            trained=chosen,
            sentences={variation: self._env.sentences(variation) for variation in every},
            held_out={variation: self._env.sentences(variation, held_out=True) for variation in every},
            provenance=self._env.provenance(),
        )

    def rivals(self, start: Start) -> tuple[int, ...]:
        """What else could be asked for in this scene."""
        self._env.reset(start)
        return self._env.rivals()

    def expert(self, start: Start) -> tuple[np.ndarray, Outcome]:
        """The expert's actions [T, 8] and how they ended, without the images."""
        demonstration, outcome = self._env.demonstrate(start)
        return demonstration.actions, outcome

    def film(self, start: Start, actions: np.ndarray, size: int) -> np.ndarray:
        """The episode again, as a video [F, size, size, 3]."""
        return self._env.film(start, actions, size=size)


def open_stage(sim: SimConfig, task: str, rules: Rules) -> Stage:
    """What a worker process makes for itself."""
    return Stage(make_env(sim, task), rules)


def stage_workers(
    sim: SimConfig,
    task: str,
    *,
    renderer: str,
    count: int | None,
    rules: Rules = Rules(),  # noqa: B008  (it cannot change)
) -> Workers:
    """Worker processes for one task; `count` None is one per core.

    Raises:
        InputError: the renderer does not work here, or the task or a camera does not exist.
        SimulatorError: a process cannot start.
    """
    sim = replace(sim, renderer=renderer)
    return Workers(partial(open_stage, sim, task, rules), worker_count(count), timeout=sim.timeout)


def task_facts(workers: Workers, task: str, variations: Sequence[int] | None) -> TaskFacts:
    """The facts of the task that the workers hold.

    Raises:
        SimulatorError: the simulator cannot even say that much.
    """
    facts = workers.call({0: ("facts", (task, variations))})[0]
    if isinstance(facts, WorkerFailure):
        raise SimulatorError(f"the simulator of task {task} gives no answer: {facts.reason}")
    return facts
