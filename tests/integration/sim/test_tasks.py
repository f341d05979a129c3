"""Every embedded task in other processes and over many episodes."""

import functools
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from instructrl.config.environment import EMBEDDED_TASKS, SimConfig
from instructrl.config.simulators import TabletopConfig
from instructrl.sim import EpisodeStart, Outcome, make_env, rendering
from instructrl.sim.vector.pool import Workers
from instructrl.types import Demonstration

TASKS = sorted(EMBEDDED_TASKS)
EPISODES = int(os.environ.get("EXPERT_EPISODES", "30"))  # per task; 200 take three minutes


class EveryTask:
    """The simulators of all tasks behind one object, for one worker process."""

    def __init__(self, cfg: SimConfig) -> None:
        self._make = functools.cache(functools.partial(make_env, cfg))

    def demonstrate(self, task: str, number: int) -> Demonstration:
        env = self._make(task)
        return env.demonstrate(EpisodeStart(number % env.variations, 7 * number))[0]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("task", TASKS)
def test_experts_succeed_over_many_episodes(task: str) -> None:
    env = make_env(TabletopConfig(cameras=["front"], image_size=16, renderer="raycast"), task)
    rng = np.random.default_rng(0)
    starts = zip(np.arange(EPISODES) % env.variations, rng.integers(2**31, size=EPISODES), strict=True)
    outcomes = Counter(env.demonstrate(EpisodeStart(int(variation), int(seed)))[1] for variation, seed in starts)
    assert outcomes[Outcome.SUCCESS] >= 0.99 * EPISODES, outcomes


def test_two_processes_give_the_same_episodes() -> None:
    """States and images are bit-identical, in any order and after any other episodes."""
    opengl = rendering.opengl_backend() is not None
    for renderer, tasks in (("raycast", TASKS), ("opengl", ["reach_target"] * opengl)):
        cfg = TabletopConfig(cameras=["front", "wrist"], image_size=48, renderer=renderer)
        asked = [(task, number) for task in tasks for number in range(3)]
        here = EveryTask(cfg)
        expected = [here.demonstrate(*one) for one in reversed(asked)][::-1]
        with Workers(functools.partial(EveryTask, cfg), 2, timeout=120) as workers:
            found = dict(workers.map("demonstrate", asked))
        for index, demonstration in enumerate(expected):
            for one, other in zip(found[index], demonstration, strict=True):
                assert np.array_equal(one, other), asked[index]


@pytest.mark.skipif(rendering.opengl_backend() is None, reason="OpenGL does not work on this machine")
@pytest.mark.parametrize("task", TASKS)
def test_scenes_do_not_depend_on_the_renderer(task: str) -> None:
    pair = [
        make_env(TabletopConfig(cameras=["front"], image_size=16, renderer=renderer), task)
        for renderer in ("raycast", "opengl")
    ]
    for seed in range(2):
        first, second = (env.demonstrate(EpisodeStart(seed % env.variations, seed))[0] for env in pair)
        np.testing.assert_array_equal(first.actions, second.actions)
        np.testing.assert_array_equal(first.state, second.state)
    for env in pair:
        env.close()


def test_the_simulator_needs_no_jax() -> None:
    code = (
        "import sys; from instructrl.sim.tabletop.env import Tabletop; import instructrl.sim.vector.pool\n"
        "env = Tabletop('reach_target', cameras=('front',), image_size=16, renderer='raycast')\n"
        "print([name for name in ('jax', 'flax', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
