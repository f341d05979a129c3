"""The embedded tasks in gymnasium's vector environments, and without the rest of the suite."""

import os
import subprocess
import sys
from contextlib import closing
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from instructrl.sim import rendering
from tests.paths import ROOT
from tests.unit.sim.test_gym import REACH, SMALL, STACK, make


@pytest.mark.parametrize("kind", [AsyncVectorEnv, SyncVectorEnv])
def test_a_vector_of_four_of_different_tasks_steps_as_each_alone(kind: type[VectorEnv]) -> None:
    names = [REACH, STACK, "instructrl/PutMoneyInSafe-v0", REACH]
    alone = [make(name) for name in names]
    vector = kind([partial(make, name) for name in names])
    try:
        seen, info = vector.reset(seed=7)
        starts = [one.reset(seed=7 + number) for number, one in enumerate(alone)]
        for number, (own, about) in enumerate(starts):
            assert seen["instruction"][number] == own["instruction"]
            assert info["variation"][number] == about["variation"] and info["seed"][number] == about["seed"]
        vector.action_space.seed(3)
        over = [False] * 4
        for _ in range(4):
            actions = vector.action_space.sample()
            seen, reward, terminated, truncated, info = vector.step(actions)
            assert seen["front_rgb"].shape == (4, 16, 16, 3) and reward.shape == (4,)
            for number, one in enumerate(alone):
                if over[number]:  # a vector begins the next episode by itself
                    own, about = one.reset()
                    over[number] = False
                else:
                    own, _, ended, cut, about = one.step(actions[number])
                    assert (bool(terminated[number]), bool(truncated[number])) == (ended, cut)
                    over[number] = ended or cut
                assert all(data_equivalence(own[key], seen[key][number], exact=True) for key in own if key != "state")
                np.testing.assert_array_equal(own["state"], seen["state"][number])
                assert info["outcome"][number] == about["outcome"]
    finally:
        for one in (vector, *alone):
            one.close()


def ran(program: str, *, stderr: bool = False) -> str:
    """Run a program; returns its standard output, or its standard error."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return (done.stderr if stderr else done.stdout).strip()


def test_an_episode_needs_no_jax_no_configuration_and_no_data() -> None:
    program = f"""
import sys, gymnasium
env = gymnasium.make("instructrl.sim.gym:{REACH}", cameras=["front"], image_size=16, renderer="raycast")
env.reset(seed=0)
env.step(env.action_space.sample())
env.close()
loaded = {{"jax", "flax", "optax", "hydra", "omegaconf", "h5py", "wandb", "rlbench", "data_tools"}} & set(sys.modules)
rooms = [name for name in sys.modules if name.startswith("instructrl.") and name.split(".")[1] in
         ("config", "cli", "data", "models", "training", "inference", "evaluation")]
print(sorted(loaded), rooms)
"""
    assert ran(program) == "[] []"


needs_opengl = pytest.mark.skipif(rendering.opengl_backend() is None, reason="OpenGL does not work on this machine")


@needs_opengl
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_processes_draw_with_opengl_and_close(context: str) -> None:
    settings = {"renderer": "opengl", "render_mode": "rgb_array", "image_size": 16, "cameras": "front"}
    vector = gymnasium.make_vec(
        REACH, num_envs=2, vectorization_mode="async", vector_kwargs={"context": context}, **settings
    )
    with closing(vector):
        seen, _ = vector.reset(seed=0)
        vector.step(vector.action_space.sample())
        drawn = vector.render()
    assert seen["front_rgb"].shape == (2, 16, 16, 3) and seen["front_rgb"].std() > 10 and len(drawn) == 2
    assert not any(process.is_alive() for process in vector.processes)


FORKED = f"""
import contextlib, os, sys, gymnasium, instructrl.sim.gym
from gymnasium.vector import AsyncVectorEnv
import warnings
warnings.simplefilter("ignore")
settings = dict(cameras="front", image_size=16, renderer="opengl")
env = gymnasium.make("{REACH}", **settings)
env.reset(seed=0)
for functions in ([lambda: env], [lambda: gymnasium.make("{REACH}", **settings)]):
    with contextlib.closing(AsyncVectorEnv(functions, context="fork")) as vector:
        try:
            vector.reset(seed=0)
        except Exception as error:
            print(type(error).__name__, str(error))
    child = os.fork()
    if child == 0:
        env.close()
        sys.exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_opengl
def test_what_is_forked_after_drawing_says_so_and_ends() -> None:
    error, code, *again = ran(FORKED).splitlines()
    assert error.startswith("RunError OpenGL was used in a process that was then forked into this one") and code == "3"
    assert "renderer=raycast" in error and again == [error, code]


@needs_opengl
def test_nothing_is_said_at_exit() -> None:
    program = f"""
import tempfile
folder = tempfile.TemporaryDirectory()  # its end at exit is registered before that of the driver
import gymnasium
env = gymnasium.make("instructrl.sim.gym:{REACH}", image_size=16, renderer="opengl", render_mode="rgb_array")
env.reset(seed=0)
env.render()
other = gymnasium.make("instructrl.sim.gym:{REACH}", image_size=16, renderer="opengl")
other.reset(seed=0)
del other
"""
    assert ran(program, stderr=True) == ""


def test_shared_sentences_without_copies_are_those_of_now() -> None:
    vector = AsyncVectorEnv([make] * 2, copy=False)
    for variation in (3, 8):
        seen, info = vector.reset(options={"variation": variation})
        assert tuple(seen["instruction"]) == tuple(info["instruction"])
        assert seen["instruction"][0:1] == (info["instruction"][0],)
    vector.close()


def test_sentences_that_were_seen_stay_as_they_were() -> None:
    vector = AsyncVectorEnv([make] * 2)
    first, info = vector.reset(options={"variation": 3})
    instructions = tuple(info["instruction"])
    vector.reset(options={"variation": 8})
    assert tuple(first["instruction"]) == instructions
    vector.close()


def test_gymnasiums_own_vectors() -> None:
    vector = gymnasium.make_vec(REACH, num_envs=2, vectorization_mode="async", **SMALL)
    seen, _ = vector.reset(seed=0, options={"variation": 3})
    assert seen["front_rgb"].shape == (2, 16, 16, 3) and len(seen["instruction"]) == 2
    vector.close()
