"""Tasks with articulated objects and multi-stage tasks: success conditions and recorded joint crossings."""

import mujoco
import numpy as np
import pytest

from instructrl.sim import EpisodeStart, Outcome
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.motion import Motion
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, OPEN, downward
from instructrl.sim.tabletop.tasks.push_buttons import SEQUENCES
from instructrl.sim.tabletop.world import World
from tests.fixtures.tabletop import play

BUTTON = """
<body name="{name}_base" mocap="true"><body name="{name}" gravcomp="1">
  <joint name="{name}" type="slide" axis="0 0 -1" range="0 .016" stiffness="300" damping="6"/>
  <geom class="prop" type="cylinder" size=".02 .01" mass=".05"/>
</body></body>"""
WALL = '<body name="wall" mocap="true"><geom class="prop" type="box" size=".02 .3 .25"/></body>'


def make(task: str) -> Tabletop:
    return Tabletop(task, cameras=("front",), image_size=16, renderer="raycast")


def begin(env: Tabletop, start: EpisodeStart) -> list[np.ndarray]:
    """The expert's actions in a newly started episode."""
    env.reset(start)
    return env._expert()


def set_joint(env: Tabletop, name: str, position: float) -> None:
    env._world.data.joint(name).qpos[0] = position
    env._world.refresh()


def outcome_of(env: Tabletop) -> Outcome | None:
    thing = env._goal_objects[env._goal]
    return env._task.outcome(env._world, thing, tuple(name for name in env._goal_objects.values() if name != thing))


def test_what_is_watched_is_remembered_in_order_and_forgotten_with_the_reset() -> None:
    """Joints that have moved back by the end of the keyframe are included."""
    world = World(BUTTON.format(name="one") + BUTTON.format(name="two"), joint_thresholds={"one": 0.003, "two": 0.003})
    world.reset()
    assert world.crossed == []
    for name in ("two", "one", "two"):
        world.data.joint(name).qpos[0] = 0.010
        world.advance()
        world.data.joint(name).qpos[0] = 0.0
        world.advance()
    assert world.crossed == ["two", "one"]
    assert world.joint("one") < 0.003
    world.reset()
    assert world.crossed == []
    world.data.joint("one").qpos[0] = 0.002
    world.advance()
    assert world.crossed == []


def test_a_scene_is_drawn_again_where_something_stands_in_the_way() -> None:
    world = World(WALL)
    world.reset()
    motion, low = Motion(world), downward(np.array([0.3, 0.3, TABLE_Z + 0.05]), gripper=OPEN)
    for place, free in (((0.3, 0.15, 1.2), False), ((-0.2, -0.6, 1.0), True)):
        world.place("wall", np.array(place), yaw=np.pi / 2)
        world.refresh()
        before = world.data.qpos.copy()
        assert motion.reachable([low]) is free
        np.testing.assert_array_equal(world.data.qpos, before)


def test_button_sequences_are_fifty_and_ask_for_orders() -> None:
    assert len(set(SEQUENCES)) == len(SEQUENCES) == 50
    assert {len(sequence) for sequence in SEQUENCES} == {1, 2, 3}
    assert all(len(set(sequence)) == len(sequence) for sequence in SEQUENCES)
    assert sum((second, first) in SEQUENCES for first, second in (s for s in SEQUENCES if len(s) == 2)) == 20
    env = make("push_buttons")
    assert [len(env._task.describe(variation)) for variation in range(50)] == [len(s) for s in SEQUENCES]


def test_buttons_count_in_the_named_order_only() -> None:
    """A wrong first button fails immediately, a missing one does not succeed, a repeated press is allowed."""
    env, three = make("push_buttons"), len(SEQUENCES) - 1
    start = EpisodeStart(three, 4)
    first, second, third = (pair for pair in np.split(np.array(begin(env, start)), 3))
    outcomes = play(env, [*second])
    assert outcomes == [None, Outcome.FAILURE]
    env.reset(start)
    assert play(env, [*first, *third]) == [None, None, None, Outcome.FAILURE]
    env.reset(start)
    assert play(env, [*first, *first, *second]) == [None] * 6
    assert play(env, [*third])[-1] is Outcome.SUCCESS
    env.reset(start)
    assert play(env, [*first, *second]) == [None] * 4


def test_no_sequence_of_a_scene_begins_with_another() -> None:
    """Otherwise the path to one goal would succeed for the other before its end."""
    env = make("push_buttons")
    for variation in range(50):
        env.reset(EpisodeStart(variation, variation))
        asked = env._goal_objects[variation].split()
        assert len(asked) == len(SEQUENCES[variation])
        for rival in env.alternative_goals():
            other = env._goal_objects[rival].split()
            shorter = min(len(asked), len(other))
            assert asked[:shorter] != other[:shorter]


@pytest.mark.parametrize(("task", "enough", "least"), [("open_drawer", 0.155, 0.145), ("turn_tap", 1.60, 1.53)])
def test_a_joint_must_be_moved_far_enough_and_it_must_be_the_right_one(task: str, enough: float, least: float) -> None:
    env = make(task)
    for variation in range(env.variations):
        env.reset(EpisodeStart(variation, 5))
        assert outcome_of(env) is None
        set_joint(env, env._goal_objects[variation], least)
        assert outcome_of(env) is None
        set_joint(env, env._goal_objects[variation], enough)
        assert outcome_of(env) is Outcome.SUCCESS
        other = env._goal_objects[(variation + 1) % env.variations]
        set_joint(env, env._goal_objects[variation], 0.0)
        set_joint(env, other, enough)
        assert outcome_of(env) is Outcome.FAILURE


def test_a_drawer_opens_only_if_it_is_held() -> None:
    env = make("open_drawer")
    for shift in (np.array([0.0, 0.0, 0.045]), np.array([0.0, 0.0, -0.045])):
        actions = begin(env, EpisodeStart(1, 2))
        moved = [action + [*shift, 0, 0, 0, 0, 0] for action in actions]
        assert Outcome.SUCCESS not in play(env, moved)
    actions = begin(env, EpisodeStart(1, 2))
    assert Outcome.SUCCESS not in play(env, [np.array([*action[:7], OPEN]) for action in actions])


def test_left_and_right_are_those_of_who_looks_at_the_spout() -> None:
    """Seen from the front of the spout, the left handle is on the left."""
    env = make("turn_tap")
    for seed in range(10):
        env.reset(EpisodeStart(0, seed))
        world = env._world
        looking, up = -world.rotation("tap")[:, 0], np.array([0.0, 0.0, 1.0])
        right = np.cross(looking, up)
        assert (world.position("right") - world.position("left")) @ right > 0.15
        turned = {name: world.yaw(name) for name in ("left", "right")}
        assert np.abs(np.sin(turned["left"] - turned["right"])) < 1e-6


def test_both_handles_open_counterclockwise() -> None:
    env = make("turn_tap")
    for variation in range(2):
        actions = begin(env, EpisodeStart(variation, 1))
        name, world = env._goal_objects[variation], env._world
        before = world.yaw(name)
        assert play(env, actions)[-1] is Outcome.SUCCESS
        assert (world.yaw(name) - before) % (2 * np.pi) == pytest.approx(np.radians(105), abs=0.05)


def test_a_block_pushed_too_far_or_too_little_is_not_on_the_target() -> None:
    env = make("slide_block_to_target")
    for seed in range(5):
        for further in (-0.05, 0.05):
            actions = begin(env, EpisodeStart(0, seed))
            way = actions[-1][:3] - actions[-2][:3]
            actions[-1] = np.array([*(actions[-1][:3] + further * way / np.linalg.norm(way)), *actions[-1][3:]])
            assert Outcome.SUCCESS not in play(env, actions)
        actions = begin(env, EpisodeStart(0, seed))
        assert play(env, actions)[-1] is Outcome.SUCCESS
        rest = env._world.position("block")
        env._motion._follow(np.repeat(env._world.data.qpos[env._world.arm][None], 2, axis=0))
        np.testing.assert_allclose(env._world.position("block"), rest, atol=1e-3)  # it does not glide on


def test_the_lid_must_be_held_and_high_enough() -> None:
    env = make("take_lid_off_saucepan")
    lower = np.array([0, 0, -0.12, 0, 0, 0, 0, 0])
    *grasp, lift = begin(env, EpisodeStart(0, 1))
    assert play(env, [*grasp, lift + lower]) == [None] * 3
    assert env._world.held() == "lid"
    assert play(env, [lift]) == [Outcome.SUCCESS]
    *grasp, lift = begin(env, EpisodeStart(0, 1))
    assert Outcome.SUCCESS not in play(env, [*(np.array([*action[:7], OPEN]) for action in grasp), lift])


@pytest.mark.parametrize("variation", range(3))
def test_money_must_be_let_go_outside(variation: int) -> None:
    env = make("take_money_out_safe")
    for seed in range(4):
        *way, last = begin(env, EpisodeStart(variation, seed))
        held = np.array([*last[:7], CLOSED])
        assert play(env, [*way, held]) == [None] * 4
        assert env._world.held() == env._goal_objects[variation]
        assert play(env, [last]) == [Outcome.SUCCESS]
        low = min(
            geom[2] for geom in env._world.data.geom_xpos[env._world.model.body(env._goal_objects[variation]).geomadr]
        )
        assert low == pytest.approx(TABLE_Z + 0.013, abs=4e-3)  # it lies on the table


@pytest.mark.parametrize("variation", range(3))
def test_money_must_be_let_go_on_the_shelf(variation: int) -> None:
    env = make("put_money_in_safe")
    for seed in range(4):
        *way, last = begin(env, EpisodeStart(variation, seed))
        held = np.array([*last[:7], CLOSED])
        assert play(env, [*way, held]) == [None] * 5
        assert env._world.held() == "money"
        assert play(env, [last]) == [Outcome.SUCCESS]
        away = last - [0.0, 0.0, 0.0, 0, 0, 0, 0, 0]
        env._motion.execute(np.array([*(away[:3] + 0.12 * (way[-1][:3] - last[:3])), *away[3:]]))
        assert outcome_of(env) is Outcome.SUCCESS  # it stays there


def test_a_tower_needs_its_number_its_color_and_its_place() -> None:
    env = make("stack_blocks")
    start = EpisodeStart(1, 3)  # three blocks
    actions = begin(env, start)
    assert len(actions) == 17
    assert play(env, actions[:11]) == [None] * 11  # two stand
    assert play(env, actions[11:])[-1] is Outcome.SUCCESS
    world = env._world
    heights = sorted(world.position(f"block{number}")[2] for number in range(4))
    np.testing.assert_allclose(np.diff(heights)[1:], 0.05, atol=2e-3)
    for shift in ((0.06, 0.0, 0.0), (0.0, 0.0, 0.05)):
        env.reset(start)
        pose = env._world.position("mat") + (*shift[:2], 0.028 + shift[2])
        for level in range(3):
            env._world.place(f"block{level}", pose + (0.0, 0.0, 0.05 * level))
        env._world.refresh()
        assert outcome_of(env) is None
    for names, outcome in ((("block3", "block0", "block2"), Outcome.SUCCESS), (("block0", "block5", "block2"), None)):
        env.reset(start)
        for level, name in enumerate(names):
            env._world.place(name, env._world.position("mat") + (0.0, 0.0, 0.028 + 0.05 * level))
        env._world.refresh()
        assert outcome_of(env) is outcome


def test_a_tower_of_the_other_color_is_a_failure() -> None:
    env = make("stack_blocks")
    env.reset(EpisodeStart(1, 3))
    for level in range(3):
        env._world.place(f"block{4 + level}", env._world.position("mat") + (0.0, 0.0, 0.028 + 0.05 * level))
    env._world.refresh()
    assert outcome_of(env) is Outcome.FAILURE


def test_a_moving_part_can_be_held_as_a_free_thing_can() -> None:
    """The weld allows a drawer to move along its rails and back."""
    env = make("open_drawer")
    actions = begin(env, EpisodeStart(2, 3))
    play(env, actions[:2])
    world = env._world
    assert world.held() == "top"
    halfway = actions[1] + 0.5 * (actions[2] - actions[1]) * (1, 1, 1, 0, 0, 0, 0, 0)
    assert env.step(halfway).outcome is None
    assert world.joint("top") == pytest.approx(0.5 * np.linalg.norm(actions[2][:3] - actions[1][:3]), abs=3e-3)
    assert env.step(actions[1]).outcome is None
    assert world.joint("top") == pytest.approx(0.0, abs=3e-3)
    assert world.data.body("top").xpos[2] == pytest.approx(world.data.body("cabinet").xpos[2] + 0.228, abs=2e-3)
    mujoco.mj_forward(world.model, world.data)
