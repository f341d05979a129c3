"""Worker processes of an evaluation."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from instructrl.config.environment import SimConfig
from instructrl.config.evaluation import RLBenchProtocol
from instructrl.evaluation.worker_env import TaskInfo, make_eval_env
from instructrl.sim import EpisodeLimits
from instructrl.sim.vector.pool import Workers, worker_count


def start_eval_workers(
    sim: SimConfig,
    task: str,
    *,
    renderer: str,
    count: int | None,
    limits: EpisodeLimits = EpisodeLimits(),  # noqa: B008  (immutable)
    choices: RLBenchProtocol | None = None,
) -> Workers:
    """Start worker processes for one task.

    Args:
        sim: settings of the simulator.
        task: name of the task.
        renderer: in place of the one in `sim`.
        count: of processes; None: one per core.
        limits: of episodes.
        choices: of a protocol on RLBench; None: its own.

    Raises:
        InputError: the simulator cannot follow the protocol, the renderer does not work on this machine, or the task or
            a camera does not exist.
        SimulatorError: a process cannot start.
    """
    sim = replace(sim, renderer=renderer)
    factory = partial(make_eval_env, sim, task, limits, choices)
    return Workers(factory, worker_count(count), timeout=sim.timeout, python=sim.interpreter)


def task_info(workers: Workers, task: str, variations: Sequence[int] | None) -> TaskInfo:
    """The properties of the workers' task.

    Raises:
        SimulatorError: the simulator does not answer.
    """
    failure = f"the simulator of task {task} does not answer: {{}}"
    return cast(TaskInfo, workers.ask("task_info", task, variations, failure=failure))
