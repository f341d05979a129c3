"""The arm reaches commanded poses or reports that it cannot, and holds what it grasps."""

import time

import numpy as np
import pytest

from instructrl.actions import rotation_angle
from instructrl.sim.tabletop.kinematics import Kinematics
from instructrl.sim.tabletop.motion import Motion, MotionResult
from instructrl.sim.tabletop.robot import BASE, JOINT_HIGH, JOINT_LOW, START_JOINTS
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, OPEN, downward, pick
from instructrl.sim.tabletop.world import World

HALF = 0.025
BLOCK = f'<body name="block"><freejoint/><geom class="object" type="box" size="{HALF} {HALF} {HALF}"/></body>'
TILTED = np.array([0.0, 0.9962, 0.0, 0.0872])  # the gripper as it points at the start


def random_pose(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A gripper-down pose between .30 and .72 m from the base, in front of it."""
    radius, angle = rng.uniform(0.30, 0.72), rng.uniform(-1.2, 1.2)
    position = np.array([BASE[0] + radius * np.cos(angle), radius * np.sin(angle), rng.uniform(TABLE_Z, 1.15)])
    yaw = rng.uniform(-np.pi / 2, np.pi / 2)
    return position, downward(position, yaw=yaw, gripper=OPEN)[3:7]


@pytest.fixture
def world() -> World:
    made = World("")
    made.reset()
    made.refresh()
    return made


@pytest.fixture
def blocks() -> World:
    made = World(BLOCK, graspable=("block",))
    made.reset()
    made.place("block", np.array([0.2, 0.1, TABLE_Z + HALF]), yaw=0.4)
    made.refresh()
    return made


def test_start_is_where_rlbench_starts(world: World) -> None:
    np.testing.assert_allclose(world.tip(), [0.2785, -0.0082, 1.472], atol=5e-4)


def test_inverse_kinematics_solves_and_respects_limits(world: World) -> None:
    kinematics, rng = Kinematics(world.model), np.random.default_rng(0)
    solved = 0
    for _ in range(300):
        position, quaternion = random_pose(rng)
        joints = kinematics.inverse(position, quaternion, START_JOINTS)
        if joints is None:
            continue
        solved += 1
        assert (joints >= JOINT_LOW).all()
        assert (joints <= JOINT_HIGH).all()
        found, turned = kinematics.forward(joints)
        assert np.linalg.norm(found - position) < 1e-3
        assert rotation_angle(turned, quaternion) < 5e-3
    assert solved >= 297


def test_joint_limits_are_worked_around(world: World) -> None:
    """Any yaw, from the start pose only, with joints often at a limit: clipping alone solves 10 % fewer."""
    kinematics, rng = Kinematics(world.model), np.random.default_rng(0)
    solved = 0
    for _ in range(400):
        radius, angle, height = rng.uniform(0.3, 0.74), rng.uniform(-1.5, 1.5), rng.uniform(0.76, 1.1)
        point = np.array([BASE[0] + radius * np.cos(angle), radius * np.sin(angle), height])
        pose = downward(point, yaw=rng.uniform(-np.pi, np.pi), gripper=OPEN)
        solved += kinematics.near(pose[:3], pose[3:7], START_JOINTS) is not None
    assert solved >= 350


def test_keyframes_end_within_a_millimetre(world: World) -> None:
    motion, rng = Motion(world), np.random.default_rng(1)
    worst = 0.0
    for _ in range(60):
        position, quaternion = random_pose(rng)
        position[2] += 0.05
        arrival = motion.execute(np.array([*position, *quaternion, OPEN]))
        assert arrival is MotionResult.REACHED
        worst = max(worst, float(np.linalg.norm(world.tip() - position)))
    assert worst < 1.5e-3


def test_any_orientation_that_the_joints_allow_is_found_again(world: World) -> None:
    kinematics, rng = Kinematics(world.model), np.random.default_rng(2)
    found = 0
    for _ in range(100):
        joints = rng.uniform(np.maximum(JOINT_LOW, START_JOINTS - 0.8), np.minimum(JOINT_HIGH, START_JOINTS + 0.8))
        found += kinematics.inverse(*kinematics.forward(joints), START_JOINTS) is not None
    assert found >= 95


def test_short_moves_are_straight(world: World) -> None:
    motion = Motion(world)
    start, end = np.array([0.2, -0.1, 1.0]), np.array([0.3, 0.05, 0.85])
    motion.execute(downward(start, gripper=OPEN))
    way = (end - start) / np.linalg.norm(end - start)
    seen = []
    motion.on_step = lambda: seen.append(world.tip())
    motion.execute(downward(end, gripper=OPEN))
    off = np.array(seen) - start
    assert len(seen) > 10
    assert np.linalg.norm(off - np.outer(off @ way, way), axis=1).max() < 5e-3


@pytest.mark.parametrize("position", [(1.2, 0.0, 1.0), (0.3, 0.0, 2.6), (-0.27, 0.0, 0.80), (1e300, 0.0, 1.0)])
def test_unreachable_is_told_quickly_and_nothing_moves(world: World, position: tuple) -> None:
    motion, before = Motion(world), world.data.qpos.copy()
    began = time.process_time()
    assert motion.execute(np.array([*position, *TILTED, OPEN])) is MotionResult.UNREACHABLE
    assert time.process_time() - began < 0.5
    np.testing.assert_array_equal(world.data.qpos, before)


def test_the_table_stops_the_hand(world: World) -> None:
    motion = Motion(world)
    assert motion.execute(downward(np.array([0.25, 0.0, TABLE_Z - 0.10]), gripper=OPEN)) is MotionResult.BLOCKED
    assert world.tip()[2] > TABLE_Z - 0.01


@pytest.mark.parametrize(("aside", "yaw"), [(0.0, 0.4), (0.008, 0.4), (0.0, 0.55)])
def test_a_grasped_block_follows_and_is_let_go(blocks: World, aside: float, yaw: float) -> None:
    """Grasps also work with small position and angle errors."""
    motion, block = Motion(blocks), blocks.position("block")
    across = np.array([-np.sin(0.4), np.cos(0.4), 0.0]) * aside
    for height, gripper in ((0.1, OPEN), (0.0, OPEN), (0.0, CLOSED)):
        assert (
            motion.execute(downward(block + across + (0, 0, height), yaw=yaw, gripper=gripper)) is MotionResult.REACHED
        )
    assert blocks.held() == "block"
    grip = blocks.position("block") - blocks.tip()
    motion.execute(downward(np.array([0.15, -0.1, 1.05]), yaw=yaw, gripper=CLOSED))
    assert blocks.position("block")[2] > 1.0
    assert np.linalg.norm(blocks.position("block") - blocks.tip() - grip) < 3e-3  # no slip
    motion.execute(downward(np.array([0.15, -0.1, 1.05]), yaw=yaw, gripper=OPEN))
    assert blocks.held() is None
    motion.execute(downward(np.array([0.15, -0.1, 1.15]), yaw=yaw, gripper=OPEN))
    assert blocks.position("block")[2] < TABLE_Z + 0.1


def test_a_block_between_neither_finger_is_not_held(blocks: World) -> None:
    motion, block = Motion(blocks), blocks.position("block")
    motion.execute(downward(block + (0, 0, 0.1), gripper=CLOSED))
    assert blocks.held() is None
    motion.execute(downward(block + (0.1, 0.1, 0.0), gripper=OPEN))
    motion.execute(downward(block + (0.1, 0.1, 0.0), gripper=CLOSED))
    assert blocks.held() is None
    np.testing.assert_allclose(blocks.position("block"), block, atol=2e-3)


def test_one_finger_is_not_enough(blocks: World) -> None:
    motion, block = Motion(blocks), blocks.position("block")
    motion.execute(downward(block, yaw=0.4, gripper=OPEN))
    finger = np.array([-np.sin(0.4), np.cos(0.4), 0.0])
    blocks.place("block", block + finger * (0.04 - HALF + 1e-3), yaw=0.4)  # against one pad
    blocks.refresh()
    assert any(geom in blocks._pads for geom in blocks.data.contact.geom.ravel())
    assert blocks.touched() is None


def test_motion_repeats_bit_for_bit() -> None:
    states = []
    for _ in range(2):
        made = World(BLOCK, graspable=("block",))
        for _ in range(2):  # also in a world that has been used
            made.reset()
            made.place("block", np.array([0.2, 0.1, TABLE_Z + HALF]), yaw=0.4)
            made.refresh()
            motion = Motion(made)
            for height, gripper in ((0.1, OPEN), (0.0, OPEN), (0.0, CLOSED), (0.3, CLOSED)):
                motion.execute(downward(np.array([0.2, 0.1, TABLE_Z + HALF + height]), yaw=0.4, gripper=gripper))
            states.append(made.data.qpos.tobytes())
    assert len(set(states)) == 1


def test_dense_actions_lead_through_the_keyframes_and_work_the_gripper_there(blocks: World) -> None:
    motion, block = Motion(blocks), blocks.position("block")
    keyframes = pick(block, above=0.12, lift=0.2, yaw=0.4)
    actions = motion.trajectory(keyframes)
    assert [action[7] for action in actions] == sorted((action[7] for action in actions), reverse=True)
    closing = next(number for number, action in enumerate(actions) if action[7] == CLOSED)
    np.testing.assert_allclose(actions[closing][:3], block, atol=1e-3)
    np.testing.assert_allclose(actions[-1][:3], keyframes[-1][:3], atol=1e-3)
    assert 8 < len(actions) < 40
    for action in actions:
        assert motion.servo(action) is MotionResult.REACHED
    assert blocks.held() == "block"
    assert np.linalg.norm(blocks.tip() - keyframes[-1][:3]) < 0.02


def test_a_dense_action_moves_for_a_fixed_time_whatever_it_asks_for(world: World) -> None:
    motion, before, ticks = Motion(world), world.tip(), 0

    def count() -> None:
        nonlocal ticks
        ticks += 1

    motion.on_step = count
    far = downward(np.array([0.3, 0.4, 0.9]), gripper=OPEN)
    assert motion.servo(far) is MotionResult.REACHED
    assert ticks == 25
    moved = np.linalg.norm(world.tip() - before)
    assert 0.01 < moved < 0.3 < np.linalg.norm(far[:3] - before)
    assert motion.servo(downward(np.array([3.0, 0, 1]), gripper=OPEN)) is MotionResult.UNREACHABLE
    assert ticks == 25
