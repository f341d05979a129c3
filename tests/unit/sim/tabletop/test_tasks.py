"""Every task: the expert succeeds, trivial policies fail, and an episode is a pure function of its start."""

import functools
import re
from collections import Counter

import numpy as np
import pytest

from instructrl.actions import rotation_angle
from instructrl.config.environment import EMBEDDED_TASKS
from instructrl.config.simulators import TabletopConfig
from instructrl.errors import InputError
from instructrl.sim import EpisodeStart, Outcome, make_env
from instructrl.sim.mujoco.cameras import extrinsics, intrinsics
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.scene import CAMERAS, TABLE_Z, WORKSPACE_HIGH, WORKSPACE_LOW
from instructrl.sim.tabletop.task import load_task
from instructrl.types import GRIPPER_STATE, Demonstration

TASKS = tuple(sorted(EMBEDDED_TASKS))
VARIATIONS = {
    "meat_off_grill": 2,
    "open_drawer": 3,
    "phone_on_base": 1,
    "pick_and_lift": 20,
    "pick_up_cup": 20,
    "push_button": 18,
    "push_buttons": 50,
    "put_knife_on_chopping_board": 1,
    "put_money_in_safe": 3,
    "put_rubbish_in_bin": 1,
    "reach_target": 20,
    "slide_block_to_target": 1,
    "stack_blocks": 60,
    "stack_wine": 1,
    "take_lid_off_saucepan": 1,
    "take_money_out_safe": 3,
    "take_umbrella_out_of_umbrella_stand": 1,
    "turn_tap": 2,
}
RIVALS = {  # how many other variations a scene can be asked for, at least and at most
    "meat_off_grill": (1, 1),
    "open_drawer": (2, 2),
    "pick_and_lift": (2, 2),
    "pick_up_cup": (1, 1),
    "push_buttons": (1, 3),
    "put_money_in_safe": (2, 2),
    "reach_target": (2, 2),
    "stack_blocks": (1, 1),
    "take_money_out_safe": (2, 2),
    "turn_tap": (1, 1),
}
APART = {"pick_and_lift": 0.10, "push_buttons": 0.10, "reach_target": 0.20, "stack_blocks": 0.10}  # metres


def make(task: str, **settings: object) -> Tabletop:
    return Tabletop(task, **{"cameras": ("front",), "image_size": 16, "renderer": "raycast", **settings})


def same(first: Demonstration, second: Demonstration) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def play(env: Tabletop, start: EpisodeStart, actions: np.ndarray) -> Outcome | None:
    """The outcome of an episode after these actions, or after those that end it."""
    env.reset(start)
    for action in actions:
        outcome = env.step(action).outcome
        if outcome is not None:
            return outcome
    return None


def things(env: Tabletop) -> list[str]:
    """The bodies relevant to the episode: graspable ones and goal objects."""
    names = {*env._task.graspable, *" ".join(env._goal_objects.values()).split()}
    model = env._world.model
    return sorted(names & {model.body(number).name for number in range(model.nbody)})


def scenery(env: Tabletop) -> np.ndarray:
    """Mask of the geoms of the task, bool [G]: those of neither the robot nor the table."""
    model = env._world.model
    roots = [model.body(int(model.body_rootid[body])).name for body in model.geom_bodyid]
    return np.array([root not in ("world", "base") for root in roots])


def corners(env: Tabletop) -> np.ndarray:
    """The corners [P 3] of the boxes around the task's geoms."""
    world, chosen = env._world, scenery(env)
    center, half = np.split(world.model.geom_aabb[chosen], 2, axis=1)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    local = center[:, None] + signs * half[:, None]
    turn = world.data.geom_xmat[chosen].reshape(-1, 3, 3)
    return (world.data.geom_xpos[chosen][:, None] + local @ turn.transpose(0, 2, 1)).reshape(-1, 3)


def stay(env: Tabletop) -> np.ndarray:
    """The action that keeps the arm in place."""
    position, quaternion = env._motion._kinematics.forward(env._world.data.qpos[env._world.arm])
    return np.array([*position, *quaternion, 1.0])


def test_the_tasks_are_those_of_the_configuration() -> None:
    assert tuple(sorted(EMBEDDED_TASKS)) == TASKS
    with pytest.raises(InputError, match=f"allowed: {', '.join(TASKS)}"):
        make_env(TabletopConfig(renderer="raycast"), "reach_targte")
    with pytest.raises(InputError, match=r"sim\.cameras"):
        make("reach_target", cameras=("front", "overhead"))


@functools.cache
def shown(task: str) -> tuple[list[EpisodeStart], list[tuple[Demonstration, Outcome]]]:
    """The expert's demonstrations of a few episodes: made once, since they are a function of the start alone."""
    env = make(task)
    starts = [EpisodeStart(7 * number % env.variations, number) for number in range(5)]
    return starts, [env.demonstrate(start) for start in starts]


@pytest.mark.parametrize("task", TASKS)
def test_experts_succeed(task: str) -> None:
    assert make(task).variations == VARIATIONS[task]
    assert [outcome for _, outcome in shown(task)[1]] == [Outcome.SUCCESS] * 5


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_agrees_with_itself_in_every_state_on_its_way(task: str) -> None:
    env, (starts, shows) = make(task), shown(task)
    env.reset(starts[0])
    for action in shows[0][0].actions:
        own = env.expert_actions()[0]
        assert np.linalg.norm(own[0, :3] - action[:3]) < 0.01
        assert rotation_angle(own[:, 3:7], action[3:7]).min() < np.radians(10)
        assert own[0, 7] == action[7]
        env.step(action)
    assert env.expert_actions() == []


@pytest.mark.parametrize("task", RIVALS)
def test_the_experts_other_actions_go_to_the_other_objects(task: str) -> None:
    env = make(task)
    env.reset(EpisodeStart(0, 3))
    others = env.expert_actions()[1:]
    expected = [env.demonstrate(EpisodeStart(0, 3, goal))[0].actions[0] for goal in env.alternative_goals()]
    assert len(others) == len(expected)
    for other, action in zip(others, expected, strict=True):
        assert np.allclose(other[0], action, atol=1e-5)


def test_the_expert_sees_where_an_object_was_pushed_to() -> None:
    env = make("pick_and_lift")
    env.reset(EpisodeStart(0, 3))
    first, block = env.expert_actions()[0][0], env.goal_object()
    before = env._world.position(block)
    for point in (before + (0.07, 0.0, 0.0), before):  # beside the block, and to where it was
        env.step(np.array([*point, *first[3:7], 0.0]))
    after = env._world.position(block)
    assert np.linalg.norm(after - before) > 0.02
    assert np.allclose(env.expert_actions()[0][0, :3], after)


@pytest.mark.parametrize("task", TASKS)
def test_doing_nothing_is_no_success(task: str) -> None:
    env = make(task)
    for seed in range(3):
        env.reset(EpisodeStart(seed * 7 % env.variations, seed))
        outcomes = [env.step(stay(env)).outcome for _ in range(env.max_steps)]
        assert outcomes == [None] * (env.max_steps - 1) + [Outcome.TIME_LIMIT]
    with pytest.raises(RuntimeError, match="reset"):
        env.step(stay(env))


@pytest.mark.parametrize("task", TASKS)
def test_another_seeds_waypoints_are_no_success(task: str) -> None:
    env, (starts, shows) = make(task), shown(task)
    for start, (other, _) in zip(starts, shows[1:], strict=False):
        assert play(env, start, other.actions) is not Outcome.SUCCESS


@pytest.mark.parametrize("task", RIVALS)
def test_another_variations_waypoints_fail_unless_it_is_the_goal(task: str) -> None:
    """In the same scene, the alternative goal's demonstration succeeds by its own success check and instruction."""
    env = make(task)
    for seed in range(3):
        start = EpisodeStart((11 * seed) % env.variations, seed)
        env.reset(start)
        alternative_goals = env.alternative_goals()
        assert start.variation not in alternative_goals
        for rival in alternative_goals:
            demonstration, outcome = env.demonstrate(EpisodeStart(start.variation, seed, goal=rival))
            assert outcome is Outcome.SUCCESS
            assert demonstration.variation == rival
            assert demonstration.instructions == env.instructions(rival)
            assert start.variation in env.alternative_goals()
            observation = env.reset(start)
            np.testing.assert_array_equal(observation.images, demonstration.images[0])  # the same scene
            assert play(env, start, demonstration.actions) is Outcome.FAILURE


def test_a_goal_must_be_in_the_scene() -> None:
    env = make("reach_target")
    env.reset(EpisodeStart(0, 1))
    absent = next(color for color in range(20) if color not in (0, *env.alternative_goals()))
    with pytest.raises(InputError, match="in this scene"):
        env.reset(EpisodeStart(0, 1, goal=absent))
    for bad in (EpisodeStart(20, 0), EpisodeStart(-1, 0), EpisodeStart(0, -1)):
        with pytest.raises(InputError):
            env.reset(bad)
    assert make("push_button").reset(EpisodeStart(0, 0)) is not None


@pytest.mark.parametrize("task", TASKS)
def test_scenes_are_in_order(task: str) -> None:
    """Objects are in the workspace, in view, apart and over the table; nothing moves before the arm; there are rivals.

    Scenes of the same variation differ.
    """
    env = make(task)
    world, (low, high) = env._world, RIVALS.get(task, (0, 0))
    model, data, table, camera = world.model, world.data, world.model.geom("table"), world.model.camera("front").id
    places = set()
    for seed in range(20):
        variation = seed * 7 % env.variations if seed >= 10 else 0
        env.reset(EpisodeStart(variation, seed))
        assert low <= len(env.alternative_goals()) <= high
        points = np.array([world.position(name) for name in things(env)])
        places.add(points.tobytes())
        assert ((points >= WORKSPACE_LOW - 1e-6) & (points <= WORKSPACE_HIGH)).all()
        eye = (points - data.cam_xpos[camera]) @ extrinsics(data, camera)[:3, :3] @ intrinsics(model, camera, 100).T
        assert ((eye[:, :2] / eye[:, 2:] > 0) & (eye[:, :2] / eye[:, 2:] < 100)).all()
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(len(points), 1)]
        assert (gaps >= APART.get(task, 0.0) - 1e-3).all()
        at = corners(env)
        assert at[:, 2].min() > TABLE_Z - 2e-3
        assert (np.abs(at[:, :2] - table.pos[:2]) < table.size[:2]).all()
        assert data.contact.dist.min(initial=0.0) > -1e-3
        env.step(stay(env))
        after = [world.position(name) for name in things(env)]
        np.testing.assert_allclose(points, after, atol=1.5e-3)
    assert len(places) == 20


@pytest.mark.parametrize("task", TASKS)
def test_sentences(task: str) -> None:
    env = make(task)
    known, asked = set[str](), Counter[str]()
    for variation in range(env.variations):
        train, held_out = env.instructions(variation), env.instructions(variation, held_out=True)
        assert len(train) + len(held_out) >= 4
        assert len(held_out) >= 1
        assert len({*train, *held_out}) == len(train) + len(held_out)
        named = env._task.describe(variation).values()
        assert all(re.search(rf"\b{word}\b", sentence) for sentence in (*train, *held_out) for word in named)
        assert all(len(re.findall(r"[a-z]+|[^a-z ]", sentence)) <= 32 for sentence in (*train, *held_out))  # tokens
        known |= {word for sentence in train for word in re.findall(r"[a-z]+", sentence)}
        new = {word for sentence in held_out for word in re.findall(r"[a-z]+", sentence)} - known
        assert not new, f"words that training never shows: {new}"
        asked.update((*train, *held_out))
    assert max(asked.values()) == 1, "a sentence asks for two variations, or is both for training and held out"
    last = env.variations - 1
    said = {env.reset(EpisodeStart(last, seed)).instruction for seed in range(40)}
    assert said == set(env.instructions(last))
    assert env.reset(EpisodeStart(last, 5)).instruction == env.reset(EpisodeStart(last, 5)).instruction


@pytest.mark.parametrize("task", TASKS)
def test_a_demonstration_is_complete_and_replays(task: str) -> None:
    env = make(task, cameras=CAMERAS, image_size=24)
    start = EpisodeStart(4 % env.variations, 9)
    demonstration, outcome = env.demonstrate(start)
    steps = len(demonstration.actions)
    assert demonstration.images.shape == (steps + 1, 4, 24, 24, 3)
    assert demonstration.images.dtype == np.uint8
    assert demonstration.state.shape == (steps + 1, len(GRIPPER_STATE))
    assert demonstration.intrinsics.shape == (steps + 1, 4, 3, 3)
    assert demonstration.extrinsics.shape == (steps + 1, 4, 4, 4)
    assert demonstration.keyframes.tolist() == list(range(1, steps + 1))
    assert demonstration.instructions == env.instructions(start.variation)
    times = -1 + 2 * np.arange(steps + 1) / env.max_steps
    np.testing.assert_allclose(demonstration.state[:, 3], times, atol=1e-6)
    np.testing.assert_array_equal(demonstration.state[1:, 0], demonstration.actions[:, 7])
    assert demonstration.state[0, 0] == 1.0
    assert demonstration.actions.dtype == np.float32
    assert (demonstration.actions[:, 6] >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(demonstration.actions[:, 3:7], axis=1), 1, atol=1e-6)
    first = env.reset(start)
    np.testing.assert_array_equal(first.images, demonstration.images[0])
    results = [env.step(action) for action in demonstration.actions]
    np.testing.assert_array_equal([result.observation.images for result in results], demonstration.images[1:])
    assert [result.outcome for result in results] == [None] * (steps - 1) + [outcome]
    assert outcome is Outcome.SUCCESS


@pytest.mark.parametrize("action", [np.full(8, np.nan), np.zeros(8), np.zeros(7), np.array([0.3, 0, 1, 0, 0, 9, 0, 1])])
def test_a_bad_action_is_an_outcome(action: np.ndarray) -> None:
    env = make("reach_target")
    env.reset(EpisodeStart(0, 0))
    before = env._world.data.qpos.copy()
    assert env.step(action).outcome is Outcome.INVALID_ACTION
    np.testing.assert_array_equal(env._world.data.qpos, before)
    env.reset(EpisodeStart(0, 0))
    assert env.step(np.array([3.0, 0, 1, 0, 1, 0, 0, 1])).outcome is Outcome.UNREACHABLE


def test_a_button_is_not_pressed_beside_or_above() -> None:
    env = make("push_button")
    for sideways, up in ((0.05, 0.0), (0.0, 0.012)):
        demonstration, _ = env.demonstrate(EpisodeStart(2, 3))
        env.reset(EpisodeStart(2, 3))
        shift = np.array([sideways, 0, up, 0, 0, 0, 0, 0])
        assert [env.step(action + shift).outcome for action in demonstration.actions] == [None, None]


def test_a_block_must_be_held_at_the_target() -> None:
    """Neither an empty gripper at the target nor a block held elsewhere is a success."""
    env = make("pick_and_lift")
    demonstration, _ = env.demonstrate(EpisodeStart(2, 3))
    env.reset(EpisodeStart(2, 3))
    assert env.step(demonstration.actions[-1]).outcome is None
    env.reset(EpisodeStart(2, 3))
    aside = np.array([0.0, 0.08, 0, 0, 0, 0, 0, 0])
    shifts = [0 * aside] * 3 + [aside]
    outcomes = [env.step(a + s).outcome for a, s in zip(demonstration.actions, shifts, strict=True)]
    assert outcomes == [None] * 4
    assert env._world.held() is not None


def test_the_gripper_turns_with_the_block() -> None:
    """Closing the gripper neither pushes nor rotates the block: the fingers meet its sides flat."""
    env, yaws = make("pick_and_lift"), []
    for seed in range(12):
        demonstration, _ = env.demonstrate(EpisodeStart(2, seed))
        env.reset(EpisodeStart(2, seed))
        name, world = env._goal_objects[2], env._world
        before, yaw = world.position(name), world.yaw(name)
        for action in demonstration.actions[:3]:
            env.step(action)
        yaws.append(yaw)
        assert world.held() == name
        assert np.linalg.norm(world.position(name) - before) < 2e-3
        assert abs(world.yaw(name) - yaw) < np.radians(2)
    assert max(yaws) - min(yaws) > np.pi / 4


@pytest.mark.parametrize("task", TASKS)
def test_a_film_shows_the_episode_and_disturbs_nothing(task: str) -> None:
    env = make(task, image_size=32)
    start = EpisodeStart(1 % env.variations, 2)
    demonstration, _ = env.demonstrate(start)
    final = env._world.data.qpos.copy()
    film = env.film(start, demonstration.actions, size=40)
    assert film.dtype == np.uint8
    assert film.shape[1:] == (40, 40, 3)
    assert len(film) == pytest.approx(env._world.data.time * 10, abs=2.01)  # one at either end
    assert (film[0] != film[-1]).any()
    np.testing.assert_array_equal(env._world.data.qpos, final)
    assert same(demonstration, env.demonstrate(start)[0])
    assert len(env.film(start, np.full((1, 8), np.nan), size=16)) >= 1


@pytest.mark.parametrize("task", TASKS)
def test_provenance_and_depth(task: str) -> None:
    env = make(task, cameras=("wrist", "front"), image_size=20)
    facts = env.provenance()
    assert all(isinstance(value, str) for value in facts.values())
    assert facts["renderer"] == "raycast"
    assert {"simulator", "version", "expert", "opengl"} <= set(facts)
    env.reset(EpisodeStart(0, 0))
    assert env.depths().shape == (2, 20, 20)
    assert load_task(task).max_steps == env.max_steps
