"""The embedded tasks in gymnasium: its environment checker, vector environments, seeds, outcomes, dependencies."""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import RescaleAction

import instructrl.sim.gym as suite
from instructrl.config.environment import EMBEDDED_TASKS
from instructrl.config.simulators import TabletopConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.sim import EpisodeStart, Outcome, make_env
from instructrl.sim.tabletop.task import load_task
from instructrl.workspace import RLBENCH_WORKSPACE
from tests.fixtures.settings import composed

REACH, STACK = "instructrl/ReachTarget-v0", "instructrl/StackBlocks-v0"
SMALL = {"cameras": ("front", "wrist"), "image_size": 16, "renderer": "raycast", "render_size": 32}
NOT_UNIT = "we recommend using a symmetric and normalized space"  # of actions: ours are in metres, on purpose


def make(name: str = REACH, **changes: Any) -> gymnasium.Env:
    return gymnasium.make(name, **{**SMALL, **changes})


@pytest.fixture
def env() -> Iterator[gymnasium.Env]:
    made = make()
    yield made
    made.close()


def expert(task: str, info: dict[str, Any]) -> np.ndarray:
    """The expert's actions in the episode described by an info dict."""
    sim = make_env(TabletopConfig(cameras=list(SMALL["cameras"]), image_size=16, renderer="raycast"), task)
    demonstration, outcome = sim.demonstrate(EpisodeStart(info["variation"], info["seed"]))
    assert outcome is Outcome.SUCCESS and info["instruction"] in demonstration.instructions
    sim.close()
    return demonstration.actions


@pytest.mark.parametrize("task", EMBEDDED_TASKS)
def test_gymnasiums_checker_passes_and_has_nothing_else_to_say(task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=f".*{NOT_UNIT}")
        made = make(suite.env_id(task), render_mode="rgb_array")
        check_env(made.unwrapped)
        made.close()


@pytest.mark.parametrize("task", EMBEDDED_TASKS)
def test_the_experts_actions_are_rewarded_once(task: str) -> None:
    made = make(suite.env_id(task))
    seen, info = made.reset(seed=5)
    actions = expert(task, info)
    for number, action in enumerate(actions, 1):
        assert info["outcome"] is None
        assert action in made.action_space
        seen, reward, terminated, truncated, info = made.step(action)
        assert seen in made.observation_space and not truncated
        assert (reward, terminated) == ((1.0, True) if number == len(actions) else (0.0, False))
    assert info["outcome"] == "success"
    made.close()


def test_every_task_and_no_other_is_registered() -> None:
    ours = [name for name in gymnasium.registry if name.startswith("instructrl/")]
    assert sorted(ours) == sorted(map(suite.env_id, EMBEDDED_TASKS)) and REACH in ours
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        suite.register()
    assert dict(gymnasium.registry) == before


@pytest.mark.parametrize("task", EMBEDDED_TASKS)
def test_every_sentence_is_in_the_space_of_instructions(task: str) -> None:
    text, task = suite.observation_space((), 16)["instruction"], load_task(task)
    for variation in range(task.variations):
        for held_out in (False, True):
            assert all(sentence in text for sentence in task.instructions(variation, held_out=held_out))


def test_a_seed_names_the_episodes_that_follow(env: gymnasium.Env) -> None:
    def three(seed: int) -> list[Any]:
        return [env.reset(seed=seed), env.reset(), env.reset()]

    first, again, other = three(11), three(11), three(12)
    assert data_equivalence(first, again, exact=True)
    assert not any(data_equivalence(one, two, exact=True) for one, two in zip(first, other, strict=True))
    assert len({info["seed"] for _, info in (*first, *other)}) == 6
    assert all(info["seed"] < 1_000_000_000 for _, info in first)


def test_options_choose_variation_and_scene_and_leave_the_rest_to_the_seed(env: gymnasium.Env) -> None:
    drawn = env.reset(seed=4)[1]
    chosen = env.reset(seed=4, options={"variation": 7})[1]
    assert chosen["variation"] == 7 and chosen["seed"] == drawn["seed"]
    same = {key: drawn[key] for key in ("variation", "seed")}
    assert data_equivalence(env.reset(seed=99, options=same), env.reset(seed=4), exact=True)
    shown = {env.reset(seed=seed)[1]["variation"] for seed in range(60)}
    assert len(shown) > 12, "all variations are drawn"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variation": 20}, r"options: variation: found 20, expected an integer, 0 to 19$"),
        ({"variation": -1}, "options: variation: found -1"),
        ({"variation": "red"}, "options: variation: found 'red'"),
        ({"variation": True}, "options: variation: found True"),
        ({"seed": -1}, r"options: seed: found -1, expected an integer, 0 or more$"),
        ({"variant": 1}, "options: found 'variant', expected variation or seed"),
    ],
)
def test_wrong_options_are_refused_in_one_line(env: gymnasium.Env, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        env.reset(options=options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cameras": ("front", "back")}, "sim.cameras: found"),
        ({"cameras": ()}, "sim.cameras: found"),
        ({"cameras": "back"}, "sim.cameras: found back, expected some of front"),
        ({"cameras": ("front", "front")}, "sim.cameras: found"),
        ({"cameras": 3}, "sim.cameras: found 3"),
        ({"instruction_tokens": 2}, r"instruction_tokens: found 2, expected an integer, 10 or more"),
        ({"instruction_tokens": True}, "instruction_tokens: found True"),
        ({"image_size": 0}, "image_size: found 0"),
        ({"keyframes": 0}, "keyframes: found 0"),
        ({"tries": 1.5}, "tries: found 1.5"),
        ({"renderer": "povray"}, "sim.renderer: found 'povray'"),
        ({"task": "fly"}, "task: found fly; allowed: meat_off_grill, "),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**settings)
    with pytest.raises(InputError, match=r"^render_mode: found 'ansi', expected rgb_array or None$"):
        suite.Task("reach_target", renderer="raycast", render_mode="ansi")


def far(*, z: float = 5.0) -> np.ndarray:
    return np.array([*RLBENCH_WORKSPACE.high[:2], z, 0, 1, 0, 0, 1], np.float32)


def test_what_ends_an_episode_and_how(env: gymnasium.Env) -> None:
    _, info = env.reset(seed=0)
    actions = expert("reach_target", info)
    still = actions[0].copy()
    still[2] += 0.12  # beside the target
    for action, outcome in (
        (far(), "unreachable"),
        (np.array([*actions[0, :3], 0, 0, 0, 0, 1], np.float32), "invalid_action"),
        (np.full(8, np.nan, np.float32), "invalid_action"),
    ):
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated, info["outcome"]) == (0.0, True, False, outcome)
    for limit in (1, 2, 4):
        short = make(keyframes=limit)
        short.reset(seed=0)
        for number in range(1, limit + 1):
            _, reward, terminated, truncated, info = short.step(still)
            assert (reward, terminated, truncated) == (0.0, False, number == limit)
        assert info["outcome"] == "time_limit"
        short.close()
    patient = make(tries=2)
    patient.reset(seed=0)
    assert [patient.step(far())[2] for _ in range(2)] == [False, True]
    patient.close()


def test_a_quaternion_may_have_any_length(env: gymnasium.Env) -> None:
    _, info = env.reset(seed=0)
    [action] = expert("reach_target", info)
    results = []
    for length in (1.0, 0.3, 1.9, -1.0):
        env.reset(seed=0)
        scaled = action.copy()
        scaled[3:7] *= length
        results.append(env.step(scaled))
    assert [reward for _, reward, *_ in results] == [1.0] * 4
    assert all(np.allclose(one[0]["state"], results[0][0]["state"], atol=1e-4) for one in results)


@pytest.mark.parametrize("task", EMBEDDED_TASKS)
def test_the_middle_of_the_action_space_is_a_pose_that_the_arm_reaches(task: str) -> None:
    rescaled = RescaleAction(make(suite.env_id(task), cameras="front"), -1, 1)
    rescaled.reset(seed=0)
    assert rescaled.step(np.zeros(8, np.float32))[-1]["outcome"] is None
    rescaled.reset(seed=0)
    turned = np.array([0, 0, 0, 0.1, -0.1, 0.1, -0.1, 0.5], np.float32)
    assert rescaled.step(turned)[-1]["outcome"] != "invalid_action"
    rescaled.close()


def test_instructions_as_tokens_are_those_of_agents_and_in_a_box() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=f".*{NOT_UNIT}")
        made = make(cameras="wrist", instruction_tokens=32)
        check_env(made.unwrapped, skip_render_check=True)
    assert isinstance(made.observation_space["instruction"], gymnasium.spaces.Box)
    seen, info = made.reset(seed=3)
    expected, _ = make_tokenizer(composed("encoder.tokenizer=small").encoder)([info["instruction"]])
    np.testing.assert_array_equal(seen["instruction"], expected[0])
    assert set(seen) == {"state", "instruction", "wrist_rgb", "wrist_intrinsics", "wrist_extrinsics"}
    vector = SyncVectorEnv([partial(make, instruction_tokens=12)] * 2)
    assert vector.reset(seed=3)[0]["instruction"].tolist()[0] == expected[0, :12].tolist()
    for one in (made, vector):
        one.close()


def test_an_observation_shows_what_the_suite_sees(env: gymnasium.Env) -> None:
    seen, info = env.reset(seed=1)
    sim = make_env(TabletopConfig(cameras=["front", "wrist"], image_size=16, renderer="raycast"), "reach_target")
    own = sim.reset(EpisodeStart(info["variation"], info["seed"]))
    for place, name in enumerate(("front", "wrist")):
        for key, values in (("rgb", own.images), ("intrinsics", own.intrinsics), ("extrinsics", own.extrinsics)):
            np.testing.assert_array_equal(seen[f"{name}_{key}"], values[place])
    np.testing.assert_array_equal(seen["state"], own.state)
    assert seen["instruction"] == info["instruction"] == own.instruction
    sim.close()


def test_pictures_follow_the_arm_and_disturb_nothing() -> None:
    made, quiet = make(render_mode="rgb_array"), make()
    _, info = made.reset(seed=2)
    quiet.reset(seed=2)
    before = made.render()
    [action] = expert("reach_target", info)
    steps = [one.step(action) for one in (made, quiet)]
    after = made.render()
    assert before.shape == after.shape == (32, 32, 3) and before.dtype == np.uint8
    assert not np.array_equal(before, after) and data_equivalence(steps[0], steps[1], exact=True)
    np.testing.assert_array_equal(made.render(), after)
    assert quiet.unwrapped.render() is None
    listed = make(render_mode="rgb_array_list")
    listed.reset(seed=2)
    listed.step(action)
    assert len(listed.render()) == 2
    for one in (made, quiet, listed):
        one.close()
