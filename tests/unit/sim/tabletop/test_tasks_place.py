"""Pick-and-place tasks: success conditions and scene placement."""

import mujoco
import numpy as np
import pytest

from instructrl.sim import EpisodeStart, Outcome
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import downward, wrap_angle
from tests.fixtures.tabletop import play

TASKS = (
    "meat_off_grill",
    "phone_on_base",
    "pick_up_cup",
    "put_knife_on_chopping_board",
    "put_rubbish_in_bin",
    "stack_wine",
    "take_umbrella_out_of_umbrella_stand",
)
PUT_DOWN = ("meat_off_grill", "phone_on_base", "put_knife_on_chopping_board", "stack_wine")  # nothing may be held


def make(task: str) -> Tabletop:
    return Tabletop(task, cameras=("front",), image_size=16, renderer="raycast")


def plan(env: Tabletop, start: EpisodeStart) -> list[np.ndarray]:
    """The expert's actions, after restarting the episode."""
    env.reset(start)
    return env._expert()


def closed(action: np.ndarray) -> np.ndarray:
    return np.array([*action[:7], 0.0])


def moved(action: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.array([*(action[:3] + shift), *action[3:]])


def outcome_of(env: Tabletop, poses: dict[str, tuple[np.ndarray, np.ndarray]]) -> Outcome | None:
    """The task's outcome for a scene with free bodies set to a position and quaternion wxyz."""
    for name, (position, quaternion) in poses.items():
        env._world.data.joint(env._world.model.body(name).jntadr[0]).qpos[:] = [*position, *quaternion]
    env._world.refresh()
    thing = env._goal_objects[env._goal]
    return env._task.outcome(env._world, thing, tuple(name for name in env._goal_objects.values() if name != thing))


def pose(env: Tabletop, name: str) -> tuple[np.ndarray, np.ndarray]:
    body = env._world.data.body(name)
    return body.xpos.copy(), body.xquat.copy()


def turned(quaternion: np.ndarray, axis: tuple[float, float, float], angle: float) -> np.ndarray:
    """A quaternion rotated further about a world axis."""
    turn, result = np.empty(4), np.empty(4)
    mujoco.mju_axisAngle2Quat(turn, np.array(axis), angle)
    mujoco.mju_mulQuat(result, turn, quaternion)
    return result


@pytest.mark.parametrize("task", TASKS)
def test_things_rest_where_they_are_placed(task: str) -> None:
    """No object floats or overlaps at the start: none moves while the arm is at rest."""
    env = make(task)
    world = env._world
    for seed in range(5):
        env.reset(EpisodeStart(seed % env.variations, seed))
        assert all(contact.dist > -1e-3 for contact in world.data.contact)
        before = {name: pose(env, name) for name in world.graspable}
        for _ in range(250):  # a second
            mujoco.mj_step(world.model, world.data)
        for name, (position, quaternion) in before.items():
            now = pose(env, name)
            assert np.linalg.norm(now[0] - position) < 2e-3
            assert 2 * np.arccos(min(1.0, abs(now[1] @ quaternion))) < np.radians(1)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_drawn_lies_below_the_table(task: str) -> None:
    env = make(task)
    world = env._world
    env.reset(EpisodeStart(0, 1))
    for geom in range(world.model.ngeom):
        body = world.model.body(world.model.geom_bodyid[geom]).name
        if body in ("world", "base"):
            continue
        center, half = world.model.geom_aabb[geom, :3], world.model.geom_aabb[geom, 3:]
        rotation = world.data.geom_xmat[geom].reshape(3, 3)
        lowest = (world.data.geom_xpos[geom] + rotation @ center)[2] - np.abs(rotation[2]) @ half
        if world.model.geom_type[geom] == int(mujoco.mjtGeom.mjGEOM_SPHERE):
            lowest = world.data.geom_xpos[geom][2] - world.model.geom_size[geom, 0]
        assert lowest > TABLE_Z - 2e-3, body


@pytest.mark.parametrize("task", TASKS)
def test_the_way_without_the_gripper_is_no_success(task: str) -> None:
    """With the gripper always open or always closed, no object is transported."""
    env = make(task)
    for seed in range(2):
        for gripper in (0.0, 1.0):
            actions = plan(env, EpisodeStart(seed % env.variations, seed))
            outcomes = play(env, [np.array([*action[:7], gripper]) for action in actions])
            assert Outcome.SUCCESS not in outcomes


@pytest.mark.parametrize("task", TASKS)
def test_success_comes_with_the_last_keyframe(task: str) -> None:
    env = make(task)
    for seed in range(3):
        outcomes = play(env, plan(env, EpisodeStart(seed % env.variations, seed)))
        assert outcomes == [None] * (len(outcomes) - 1) + [Outcome.SUCCESS]
        assert len(outcomes) == {"pick_up_cup": 3, "take_umbrella_out_of_umbrella_stand": 3}.get(
            task, 4 if task in ("put_knife_on_chopping_board", "put_rubbish_in_bin") else 5
        )


@pytest.mark.parametrize("task", PUT_DOWN)
def test_what_is_still_held_is_not_put_down(task: str) -> None:
    """An object at its target succeeds only once it is released."""
    env = make(task)
    for seed in range(3):
        actions = plan(env, EpisodeStart(seed % env.variations, seed))
        assert set(play(env, [*actions[:-1], closed(actions[-1])])) == {None}
        assert env._world.held() == env._goal_objects[env._goal]
        assert play(env, actions[-1:]) == [Outcome.SUCCESS]


@pytest.mark.parametrize("task", [*PUT_DOWN, "put_rubbish_in_bin"])
def test_what_is_dropped_beside_its_place_is_no_success(task: str) -> None:
    """Move the last keyframe by 14 cm, to a side that the arm can reach."""
    env, tried = make(task), 0
    for seed in range(2):
        for angle in np.arange(4) * np.pi / 2:
            actions = plan(env, EpisodeStart(seed % env.variations, seed))
            shift = 0.14 * np.array([np.cos(angle), np.sin(angle), 0.0])
            outcomes = play(
                env, [moved(action, shift) if place >= 3 else action for place, action in enumerate(actions)]
            )
            assert Outcome.SUCCESS not in outcomes
            tried += outcomes[-1] is None
    assert tried >= 2


@pytest.mark.parametrize("task", ["meat_off_grill", "pick_up_cup"])
def test_the_other_thing_is_a_failure(task: str) -> None:
    env = make(task)
    for seed in range(6):
        start = EpisodeStart(seed % env.variations, seed)
        env.reset(start)
        (rival,) = env.alternative_goals()
        actions = plan(env, EpisodeStart(start.variation, seed, goal=rival))
        assert play(env, actions)[-1] is Outcome.SUCCESS
        env.reset(start)
        assert play(env, actions)[-1] is Outcome.FAILURE


def test_both_meats_lie_at_either_place_and_the_rival_is_the_other() -> None:
    env, first = make("meat_off_grill"), set()
    for seed in range(12):
        env.reset(EpisodeStart(seed % 2, seed))
        assert env.alternative_goals() == (1 - seed % 2,)
        grill, world = env._world.rotation("grill"), env._world
        x = {name: ((world.position(name) - world.position("grill")) @ grill)[0] for name in ("chicken", "steak")}
        assert abs(x["chicken"] - x["steak"]) > 0.08
        first.add(min(x, key=x.__getitem__))
    assert first == {"chicken", "steak"}


def test_serving_both_meats_is_a_failure() -> None:
    env = make("meat_off_grill")
    plan(env, EpisodeStart(0, 3))
    world = env._world
    plate = world.position("grill") + world.rotation("grill") @ (0.205, 0.0, 0.0)
    side = world.rotation("grill")[:, 1]
    upright = np.array([1.0, 0, 0, 0])
    chicken = (plate + 0.03 * side + (0, 0, 0.035), upright)
    steak = (plate - 0.03 * side + (0, 0, 0.026), upright)
    assert outcome_of(env, {"chicken": chicken}) is Outcome.SUCCESS
    assert outcome_of(env, {"chicken": chicken, "steak": steak}) is Outcome.FAILURE
    env.reset(EpisodeStart(0, 3))
    assert outcome_of(env, {"steak": steak}) is Outcome.FAILURE
    env.reset(EpisodeStart(0, 3))
    assert outcome_of(env, {"chicken": (chicken[0] + (0, 0, 0.05), upright)}) is None  # in the air above the plate


def test_a_cup_must_be_held_and_high() -> None:
    env = make("pick_up_cup")
    for seed in range(4):
        above, take, _ = plan(env, EpisodeStart(3 * seed, seed))
        nudge = moved(take, np.array([0.02, 0.0, 0.0]))
        assert set(play(env, [above, take, moved(take, np.array([0, 0, 0.03])), nudge])) == {None}
        assert env._world.held() == env._goal_objects[env._goal]
        env.reset(EpisodeStart(3 * seed, seed))
        name = env._goal_objects[3 * seed]
        position, quaternion = pose(env, name)
        assert outcome_of(env, {name: (position + (0, 0, 0.3), quaternion)}) is None  # in the air, but not held
        env.reset(EpisodeStart(3 * seed, seed))
        push = [moved(closed(take), np.array([x, 0.0, 0.0])) for x in (-0.08, 0.05)]
        assert set(play(env, [closed(moved(above, np.array([-0.08, 0, 0]))), *push])) <= {None, Outcome.UNREACHABLE}


def test_two_cups_have_different_colors_and_all_pairs_come_up() -> None:
    env, others = make("pick_up_cup"), set()
    for seed in range(150):
        goal_objects = env._task.place(env._world, 7, np.random.default_rng(seed))
        if goal_objects is not None:
            assert len(goal_objects) == 2
            others |= set(goal_objects) - {7}
    assert others == set(range(20)) - {7}


def test_a_knife_must_lie_flat_on_the_board() -> None:
    env = make("put_knife_on_chopping_board")
    actions = plan(env, EpisodeStart(0, 2))
    play(env, actions)
    position, quaternion = pose(env, "knife")
    board, world = env._world.rotation("board"), env._world
    plan(env, EpisodeStart(0, 2))
    assert outcome_of(env, {"knife": (position, quaternion)}) is Outcome.SUCCESS
    assert outcome_of(env, {"knife": (position + (0, 0, 0.06), quaternion)}) is None  # above it
    assert outcome_of(env, {"knife": (position + 0.12 * board[:, 1], quaternion)}) is None  # beside it
    yaw = wrap_angle(world.yaw("board"), np.pi)
    steep = turned(quaternion, (-np.sin(yaw), np.cos(yaw), 0.0), -0.6)
    assert outcome_of(env, {"knife": (position, steep)}) is None  # on its point


def test_the_knife_comes_out_of_the_block_without_moving_it() -> None:
    """Pulled along its slope, the blade touches only the slot's sides and keeps its pose in the gripper."""
    env = make("put_knife_on_chopping_board")
    for seed in range(6):
        actions = plan(env, EpisodeStart(0, seed))
        play(env, actions[:2])
        hand, knife = env._world.rotation("hand"), env._world.rotation("knife")
        play(env, actions[2:3])
        np.testing.assert_allclose(
            hand.T @ knife, env._world.rotation("hand").T @ env._world.rotation("knife"), atol=0.03
        )


def test_a_bottle_must_lie_along_the_rack_in_its_free_place() -> None:
    env = make("stack_wine")
    actions = plan(env, EpisodeStart(0, 2))
    play(env, actions)
    position, quaternion = pose(env, "bottle")
    rack, axis = env._world.rotation("rack"), env._world.rotation("bottle")[:, 2]
    plan(env, EpisodeStart(0, 2))
    assert outcome_of(env, {"bottle": (position, quaternion)}) is Outcome.SUCCESS
    assert outcome_of(env, {"bottle": (position, np.array([1.0, 0, 0, 0]))}) is None  # upright in it
    assert outcome_of(env, {"bottle": (position, turned(quaternion, (0, 0, 1), 0.5))}) is None  # across
    assert outcome_of(env, {"bottle": (position + 0.08 * axis, quaternion)}) is None  # half out
    assert outcome_of(env, {"bottle": (position + 0.05 * rack[:, 1], quaternion)}) is None  # on a tooth
    assert outcome_of(env, {"bottle": (position + (0, 0, 0.05), quaternion)}) is None  # above
    floor = np.array([*position[:2], TABLE_Z + 0.033]) + 0.25 * rack[:, 1]
    assert outcome_of(env, {"bottle": (floor, quaternion)}) is None  # on the table beside it


def test_a_bottle_that_falls_is_no_success() -> None:
    """Release above the rack while the bottle is still upright in the gripper."""
    env = make("stack_wine")
    for seed in range(3):
        actions = plan(env, EpisodeStart(0, seed))
        upright = np.array([*actions[3][:3], *actions[2][3:7], 1.0])
        assert Outcome.SUCCESS not in play(env, [*actions[:3], upright])


def test_an_umbrella_must_leave_the_stand() -> None:
    env = make("take_umbrella_out_of_umbrella_stand")
    for seed in range(5):
        above, take, lift = plan(env, EpisodeStart(0, seed))
        half = moved(lift, np.array([0, 0, -0.08]))
        assert set(play(env, [above, take, half])) == {None}
        assert env._world.held() == "umbrella"
        assert play(env, [lift]) == [Outcome.SUCCESS]
        env.reset(EpisodeStart(0, seed))
        assert set(play(env, [above, take, half, moved(half, np.array([0, 0, -0.05])), above])) <= {
            None,
            Outcome.TIME_LIMIT,
        }


def test_only_the_rubbish_belongs_in_the_bin() -> None:
    env = make("put_rubbish_in_bin")
    for seed in range(3):
        actions = plan(env, EpisodeStart(0, seed))
        for tomato in ("tomato0", "tomato1"):
            env.reset(EpisodeStart(0, seed))
            at = env._world.position(tomato)
            taking = [moved(action, at - env._world.position("rubbish")) for action in actions[:3]]
            assert play(env, [*taking, actions[3]])[-1] in (Outcome.FAILURE, Outcome.UNREACHABLE)
        env.reset(EpisodeStart(0, seed))
        inside = env._world.position("bin") + (0, 0, 0.04)
        upright = np.array([1.0, 0, 0, 0])
        assert outcome_of(env, {"rubbish": (inside, upright)}) is Outcome.SUCCESS
        assert outcome_of(env, {"tomato1": (inside + (0.03, 0, 0), upright)}) is Outcome.FAILURE  # both
        env.reset(EpisodeStart(0, seed))
        assert outcome_of(env, {"tomato0": (inside, upright)}) is Outcome.FAILURE
        env.reset(EpisodeStart(0, seed))
        assert outcome_of(env, {"rubbish": (inside + (0, 0, 0.2), upright)}) is None  # above it
        assert outcome_of(env, {"rubbish": (inside + (0.1, 0, 0), upright)}) is None  # beside it


def test_rubbish_and_tomatoes_swap_places() -> None:
    """Each of the three objects takes every rank (leftmost, farthest and so on)."""
    env, ranks = make("put_rubbish_in_bin"), set()
    for seed in range(20):
        env.reset(EpisodeStart(0, seed))
        order = sorted(("rubbish", "tomato0", "tomato1"), key=lambda name: env._world.position(name)[1])
        ranks.add(order.index("rubbish"))
    assert ranks == {0, 1, 2}


def test_a_phone_must_lie_along_its_cradle() -> None:
    env = make("phone_on_base")
    actions = plan(env, EpisodeStart(0, 4))
    play(env, actions)
    position, quaternion = pose(env, "phone")
    cradle = env._world.rotation("cradle")
    plan(env, EpisodeStart(0, 4))
    assert outcome_of(env, {"phone": (position, quaternion)}) is Outcome.SUCCESS
    assert (
        outcome_of(env, {"phone": (position, turned(quaternion, (0, 0, 1), np.pi))}) is Outcome.SUCCESS
    )  # its ends are alike
    assert outcome_of(env, {"phone": (position, turned(quaternion, (0, 0, 1), 0.6))}) is None  # across
    assert outcome_of(env, {"phone": (position - 0.06 * cradle[:, 1], quaternion)}) is None  # on the keys
    assert outcome_of(env, {"phone": (position + (0, 0, 0.03), quaternion)}) is None  # above
    assert outcome_of(env, {"phone": (position + 0.06 * cradle[:, 0], quaternion)}) is None  # off to one end


def test_a_tilted_gripper_points_outward() -> None:
    """`downward` with a tilt: the approach leans along the rotated x; the fingers still close along the rotated y."""
    for yaw, tilt in ((0.0, 0.0), (0.7, 0.4), (-2.0, 1.2), (1.5, -0.3)):
        action = downward(np.zeros(3), yaw=yaw, tilt=tilt, gripper=1.0)
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, action[[6, 3, 4, 5]])
        _, across, approach = matrix.reshape(3, 3).T
        ahead = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        np.testing.assert_allclose(approach, np.sin(tilt) * ahead - (0, 0, np.cos(tilt)), atol=1e-12)
        np.testing.assert_allclose(across, (-np.sin(yaw), np.cos(yaw), 0), atol=1e-12)
        assert np.linalg.norm(action[3:7]) == pytest.approx(1.0)


def test_turns_fold_into_one_period() -> None:
    for yaw in np.linspace(-7, 7, 57):
        small = wrap_angle(float(yaw), np.pi)
        assert -np.pi / 2 <= small < np.pi / 2
        assert np.sin(small - yaw) == pytest.approx(0, abs=1e-9)
