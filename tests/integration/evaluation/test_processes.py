"""Rollouts in worker processes: limits reach them, one that dies costs one episode, the embedded simulator plays."""

from functools import partial
from typing import Any

import numpy as np

from instructrl.config.simulators import TabletopConfig
from instructrl.evaluation.evaluator import EVALUATION_SEEDS, demonstrate, fixed_starts
from instructrl.evaluation.rollout import EpisodeSpec, run_rollouts
from instructrl.evaluation.workers import start_eval_workers, task_info
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome
from instructrl.sim.vector.pool import Workers
from instructrl.types import Observation
from tests.fakes.sim import FakePolicy, InlineWorkers, make_fake_env
from tests.unit.evaluation.test_episode_limits import FAR, HERE, SIM
from tests.unit.evaluation.test_rollout import same, specs


def test_the_rules_reach_the_worker_processes() -> None:
    limits = EpisodeLimits(max_keyframes=2, max_unreachable=2)
    with start_eval_workers(SIM, "push_button", renderer="raycast", count=1, limits=limits) as workers:
        assert task_info(workers, "push_button", None).max_steps == 2, "the agent's history has room for that many"
        workers.call({0: ("reset", (EpisodeStart(0, 1),))})
        assert workers.call({0: ("step", (FAR,))})[0].outcome is None
        assert workers.call({0: ("step", (HERE,))})[0].outcome is Outcome.TIME_LIMIT


def test_the_embedded_simulator_plays_all_parts() -> None:
    """The expert succeeds, and its actions can be replayed and rendered as a video."""
    sim = TabletopConfig(cameras=["front"], image_size=16)
    with start_eval_workers(sim, "reach_target", renderer="raycast", count=2) as workers:
        info = task_info(workers, "reach_target", [3, 7])
        assert info.variations == (3, 7)
        assert len(info.instructions) == 20
        assert not set(info.instructions[3]) & set(info.held_out_instructions[3])
        starts = fixed_starts(4, info.variations, first_seed=EVALUATION_SEEDS, seed=0)
        shown: dict[int, Any] = {}
        demonstrate(workers, starts, info, on_episode=shown.__setitem__)
        assert [shown[index].outcome for index in range(4)] == [Outcome.SUCCESS] * 4

        class Replay(FakePolicy):
            def answer(self, slot: int, seen: Observation) -> np.ndarray:
                return shown[next(i for i in range(4) if i % 2 == slot and started[slot] == i // 2)].actions[0]

            def start_episode(self, slot: int, instruction: str) -> None:
                started[slot] = started.get(slot, -1) + 1

        started: dict[int, int] = {}
        replayed = run_rollouts(workers, Replay(), specs={i: EpisodeSpec(start) for i, start in starts.items()})
        assert [episode.outcome for episode in replayed.values()] == [Outcome.SUCCESS] * 4
        frames = workers.call({0: ("film", (shown[0].start, shown[0].actions, 64))})[0]
        assert frames.shape[1:] == (64, 64, 3)
        assert len(frames) > 5


def test_a_process_that_dies_costs_one_episode() -> None:
    with Workers(partial(make_fake_env, deadly=(103,)), 2, timeout=20.0) as workers:
        played = run_rollouts(workers, FakePolicy(), specs=specs(8))
    assert [i for i, episode in played.items() if episode.outcome is Outcome.SIMULATOR_ERROR] == [3]
    undisturbed = run_rollouts(InlineWorkers(), FakePolicy(), specs=specs(8))
    del played[3], undisturbed[3]
    assert same(played, undisturbed)
