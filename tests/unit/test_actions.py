"""Actions: exact inverses, one quaternion and one triple of bins per rotation, rejected values."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from instructrl.actions import (
    canonical_quaternion,
    check_action,
    euler_angles,
    lowest_tilt,
    quaternion_from_columns,
    quaternion_from_euler,
    rotation_angle,
    rotation_from_bins,
    rotation_in_bins,
    rotation_matrix,
)
from instructrl.errors import InputError
from instructrl.workspace import RLBENCH_WORKSPACE

positions = arrays(np.float32, (3,), elements=st.floats(-2, 2, width=32))
LOW, HIGH = RLBENCH_WORKSPACE.bounds
numbers = st.floats(-1, 1, width=32)
quaternions = arrays(np.float64, (4,), elements=numbers).filter(lambda q: np.linalg.norm(q) > 1e-3)
unit_quaternions = quaternions.map(lambda q: q / np.linalg.norm(q))


@given(unit_quaternions, st.floats(0.1, 10), st.floats(-3, 3))
def test_two_columns_of_its_matrix_give_a_rotation_back_whatever_their_lengths_and_angle(
    q: np.ndarray, length: float, lean: float
) -> None:
    columns = rotation_matrix(q)[..., :2]
    for found in (columns, columns * length, columns + lean * np.stack([0 * columns[:, 0], columns[:, 0]], axis=-1)):
        np.testing.assert_allclose(
            rotation_angle(quaternion_from_columns(found), canonical_quaternion(q)), 0, atol=1e-5
        )


def discretize(actions: Any, *, position_bins: int, rotation_bins: int) -> Any:
    """Bins of actions [..., 8], int32 [..., 7]: the nearest to position and Euler angles, and the gripper's class."""
    xp = actions.__array_namespace__()
    position = xp.clip(xp.floor(RLBENCH_WORKSPACE.to_bins(actions[..., :3], position_bins) + 0.5), 0, position_bins - 1)
    rotation, low = xp.round(rotation_in_bins(actions[..., 3:7], rotation_bins)), lowest_tilt(rotation_bins)
    tilt = xp.clip(rotation[..., 1], low, rotation_bins - low)
    outer = rotation % rotation_bins
    gripper = xp.astype(actions[..., 7] > 0.5, position.dtype)
    bins = xp.stack(
        [*(position[..., i] for i in range(3)), outer[..., 0], tilt, outer[..., 2], gripper],
        axis=-1,
    )
    return xp.astype(bins, xp.int32)


def undiscretize(bins: Any, *, position_bins: int, rotation_bins: int) -> Any:
    """Actions float32 [..., 8] at the centres of bins."""
    xp = bins.__array_namespace__()
    position = RLBENCH_WORKSPACE.from_bins(xp.astype(bins[..., :3], xp.float32), position_bins)
    quaternion = rotation_from_bins(xp.astype(bins[..., 3:6], xp.float32), rotation_bins)
    return xp.concat([position, quaternion, xp.astype(bins[..., 6:], xp.float32)], axis=-1)


def matrix(q: np.ndarray) -> np.ndarray:
    """Return the rotation matrix of a unit quaternion x y z w, by the textbook formula."""
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@given(quaternions)
def test_a_canonical_quaternion_is_the_same_rotation_of_unit_length_with_w_not_negative(q: np.ndarray) -> None:
    canonical = canonical_quaternion(q)
    assert canonical[3] >= 0 and np.linalg.norm(canonical) == pytest.approx(1)
    np.testing.assert_allclose(matrix(canonical), matrix(q / np.linalg.norm(q)), atol=1e-9)
    np.testing.assert_allclose(canonical_quaternion(canonical), canonical, atol=1e-15)
    if abs(canonical[3]) > 1e-9:
        np.testing.assert_allclose(canonical_quaternion(-q), canonical, atol=1e-15)


@pytest.mark.parametrize("q", [[0, 0, 0, 0], [0, 0, 0, -1e-12]])
def test_no_rotation_at_all_becomes_the_identity(q: list[float]) -> None:
    assert canonical_quaternion(np.array(q, np.float32)).tolist() == [0, 0, 0, 1]
    assert np.isfinite(jax.grad(lambda q: canonical_quaternion(q)[0])(jnp.array(q, jnp.float32))).all()


def test_numpy_and_jax_agree_and_answer_in_kind() -> None:
    rng = np.random.default_rng(0)
    many, others = rng.normal(size=(2, 200, 4)).astype(np.float32)
    ours, theirs = canonical_quaternion(many), canonical_quaternion(jnp.asarray(many))
    assert isinstance(ours, np.ndarray) and isinstance(theirs, jax.Array) and ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    others = canonical_quaternion(others)
    angle, same = rotation_angle(ours, others), rotation_angle(theirs, jnp.asarray(others))
    assert isinstance(angle, np.ndarray) and isinstance(same, jax.Array)
    np.testing.assert_allclose(angle, same, atol=1e-3)


@given(unit_quaternions, unit_quaternions)
def test_the_angle_between_rotations_knows_no_order_and_no_sign(first: np.ndarray, second: np.ndarray) -> None:
    angle = rotation_angle(first, second)
    assert 0 <= angle <= math.pi + 1e-12
    for one, two in ((second, first), (-first, second), (first, -second), (-second, -first)):
        assert rotation_angle(one, two) == pytest.approx(angle, abs=1e-12)
    assert rotation_angle(first, first) == pytest.approx(0, abs=1e-6)


@given(unit_quaternions, unit_quaternions)
def test_the_angle_is_that_of_the_relative_rotation_matrix(first: np.ndarray, second: np.ndarray) -> None:
    cosine = (np.trace(matrix(first).T @ matrix(second)) - 1) / 2
    assert math.cos(rotation_angle(first, second)) == pytest.approx(cosine, abs=1e-9)


@pytest.mark.parametrize("degrees", [0, 1, 90, 179, 180])
def test_the_angle_about_an_axis(degrees: float) -> None:
    half = math.radians(degrees) / 2
    turned = np.array([0, math.sin(half), 0, math.cos(half)])
    assert math.degrees(rotation_angle(np.array([0.0, 0, 0, 1]), turned)) == pytest.approx(degrees, abs=1e-5)


@given(positions, unit_quaternions, st.sampled_from([0.0, 0.2, 0.9, 1.0]))
def test_a_good_action_comes_back_canonical(position: np.ndarray, q: np.ndarray, gripper: float) -> None:
    action = check_action([*position, *(q * 1.005), gripper])
    assert action.dtype == np.float64 and action.shape == (8,)
    np.testing.assert_array_equal(action[:3], position)
    np.testing.assert_allclose(action[3:7], canonical_quaternion(q), atol=1e-9)
    assert action[7] == (gripper > 0.5)
    np.testing.assert_allclose(check_action(action), action, atol=1e-12)


near = st.floats(-1, 1).map(lambda share: 0.1 * share**5)  # mostly close to zero, some exactly
quarter_turns = st.integers(-2, 2).map(lambda quarter: quarter * math.pi / 2)
awkward_angles = st.one_of(st.floats(-math.pi, math.pi), st.builds(lambda a, b: a + b, quarter_turns, near))
awkward_quaternions = arrays(np.float64, (3,), elements=awkward_angles).map(
    lambda angles: Rotation.from_euler("xyz", angles).as_quat()
)
any_quaternion = st.one_of(unit_quaternions, awkward_quaternions)
actions = st.builds(
    lambda place, q, gripper: np.concatenate([place, q, [gripper]]),
    arrays(np.float64, (3,), elements=st.floats(0, 1)).map(lambda x: LOW + x * (HIGH - LOW)),
    any_quaternion,
    st.sampled_from([0.0, 1.0]),
)
position_bins, rotation_bins = st.integers(2, 1000), st.integers(4, 720)
BINS = {"position_bins": 100, "rotation_bins": 72}


def circular(angle: np.ndarray) -> np.ndarray:
    """Return the circular distance from zero."""
    return np.abs((angle + math.pi) % (2 * math.pi) - math.pi)


def middle_angle(bins: np.ndarray, count: int) -> np.ndarray:
    """Return the angles at the centers of the middle bins."""
    return (bins[..., 4] / count - 0.5) * 2 * math.pi


@given(unit_quaternions.filter(lambda q: abs(abs(q[1] * q[3] - q[0] * q[2]) - 0.5) > 1e-4))
def test_euler_angles_are_turns_about_the_fixed_axes_x_y_z(q: np.ndarray) -> None:
    expected = Rotation.from_quat(q).as_euler("xyz")
    assert circular(euler_angles(q) - expected).max() < 1e-6
    np.testing.assert_allclose(quaternion_from_euler(expected), canonical_quaternion(q), atol=1e-6) if abs(
        q[3]
    ) > 1e-6 else None


@given(any_quaternion)
def test_euler_angles_and_back_is_the_same_rotation(q: np.ndarray) -> None:
    for kind, tolerance in ((np.float64, 4e-4), (np.float32, 2e-3)):
        angles = euler_angles(q.astype(kind))
        assert abs(angles[1]) <= math.pi / 2 + 1e-6 and np.abs(angles).max() <= math.pi + 1e-6
        assert rotation_angle(quaternion_from_euler(angles), q.astype(kind)) < tolerance


@given(actions, position_bins, rotation_bins)
def test_a_bins_centre_is_within_half_a_bin_of_what_fell_into_it(action: np.ndarray, places: int, turns: int) -> None:
    counts = {"position_bins": places, "rotation_bins": turns}
    bins = discretize(action, **counts)
    assert (bins >= 0).all() and (bins[:3] < places).all() and (bins[3:6] < turns).all() and bins.dtype == np.int32
    back = undiscretize(bins, **counts)
    assert (np.abs(back[:3] - action[:3]) <= 0.5 / places + 1e-6).all()
    assert back[7] == action[7]
    half = math.pi / turns + 1e-3
    assert rotation_angle(back[3:7], action[3:7]) < 3 * half  # rotations about three axes add up to at most this
    first, middle, last = euler_angles(action[3:7])
    decoded = (bins[3:6] / turns - 0.5) * 2 * math.pi
    decoded[1] = np.clip(decoded[1], -math.pi / 2, math.pi / 2)
    if abs(decoded[1]) > math.pi / 2 - 1e-6:  # gimbal lock: only the difference or the sum of the outer angles counts
        last = last - np.sign(middle) * (first - decoded[0])
        first = decoded[0]
    assert (circular(np.array([first, middle, last]) - decoded) < half).all()
    assert rotation_angle(back[3:7].astype(np.float64), quaternion_from_euler(decoded)) < 1e-3


@given(actions, position_bins, rotation_bins)
def test_the_bins_of_a_bins_centre_are_the_same(action: np.ndarray, places: int, turns: int) -> None:
    counts = {"position_bins": places, "rotation_bins": turns}
    bins = discretize(action, **counts)
    np.testing.assert_array_equal(discretize(undiscretize(bins, **counts), **counts), bins)


@pytest.mark.parametrize("turns", [4, 5, 6, 7, 72, 73, 74, 75, 719, 720])
def test_every_triple_of_canonical_bins_comes_back(turns: int) -> None:
    rng = np.random.default_rng(turns)
    outermost = (turns + 2) // 4
    bins = rng.integers(0, turns, (5000, 7))
    bins[:, :3], bins[:, 6] = rng.integers(0, 100, (5000, 3)), rng.integers(0, 2, 5000)
    bins[:, 4] = rng.integers(outermost, turns - outermost + 1, 5000)
    bins[np.abs(middle_angle(bins, turns)) > math.pi / 2 - 1e-6, 3] = 0
    assert len(np.unique(bins[:, 4])) == min(turns - 2 * outermost + 1, len(np.unique(bins[:, 4])))
    for kind in (np.asarray, jnp.asarray):
        actions = undiscretize(kind(bins), position_bins=100, rotation_bins=turns)
        np.testing.assert_array_equal(discretize(actions, position_bins=100, rotation_bins=turns), bins)


@given(actions, rotation_bins)
def test_both_signs_of_a_quaternion_fall_into_the_same_bins(action: np.ndarray, turns: int) -> None:
    opposite = np.concatenate([action[:3], -action[3:7], action[7:]])
    counts = {"position_bins": 100, "rotation_bins": turns}
    np.testing.assert_array_equal(discretize(opposite, **counts), discretize(action, **counts))


@given(st.integers(-2, 2), st.sampled_from([np.float64, np.float32]), st.integers(0, 2**32 - 1))
def test_noise_does_not_move_a_gripper_that_points_down_to_another_bin(quarter: int, kind: type, seed: int) -> None:
    half = quarter * math.pi / 4
    down = np.array([0.205, 0.105, 1.005, -math.sin(half), math.cos(half), 0, 0, 1])
    noise = np.random.default_rng(seed).normal(size=8) * 1e-4
    expected = [50, 60, 40, 0, 36, (18 * quarter) % 72, 1]
    assert discretize((down + noise).astype(kind), **BINS).tolist() == expected


@pytest.mark.parametrize("sign", [-1, 1])
def test_noise_at_gimbal_lock_stays_in_the_same_bins(sign: int) -> None:
    rng = np.random.default_rng(0)
    angles = np.stack([rng.uniform(-3, 3, 300), np.full(300, sign * math.pi / 2), np.zeros(300)], axis=-1)
    angles[:, 2] = 0.5 + sign * angles[:, 0]  # the same rotation
    quaternions = quaternion_from_euler(angles) + rng.normal(size=(300, 4)) * 1e-6
    actions = np.concatenate([np.full((300, 3), 0.705), quaternions, np.ones((300, 1))], axis=-1)
    for kind in (np.float64, np.float32):
        assert len(np.unique(discretize(actions.astype(kind), **BINS), axis=0)) == 1


def test_points_outside_the_workspace_fall_into_the_nearest_bin() -> None:
    action = np.array([-5.0, 0.001, 9.0, 0, 0, 0, 1, 0])
    assert discretize(action, **BINS)[:3].tolist() == [0, 50, 99]
    corners = np.stack([LOW, HIGH])
    actions = np.concatenate([corners, np.tile(np.float32([0, 0, 0, 1, 0]), (2, 1))], axis=-1)
    assert discretize(actions, **BINS)[:, :3].tolist() == [[0, 0, 0], [99, 99, 99]]


def test_numpy_and_jax_fall_into_the_same_bins() -> None:
    rng = np.random.default_rng(1)
    quaternions = canonical_quaternion(rng.normal(size=(2000, 4)))
    actions = np.concatenate([rng.uniform(-0.5, 1.6, (2000, 3)), quaternions, np.ones((2000, 1))], axis=-1)
    actions = actions.astype(np.float32)
    ours, theirs = discretize(actions, **BINS), discretize(jnp.asarray(actions), **BINS)
    assert isinstance(ours, np.ndarray) and isinstance(theirs, jax.Array) and ours.dtype == theirs.dtype == np.int32
    assert (ours == theirs).mean() > 0.999  # some are on a bin edge
    back, same = undiscretize(ours, **BINS), undiscretize(jnp.asarray(ours), **BINS)
    assert isinstance(back, np.ndarray) and isinstance(same, jax.Array) and back.dtype == same.dtype == np.float32
    np.testing.assert_allclose(back[:, :3], same[:, :3], atol=1e-6)
    assert rotation_angle(back[:, 3:7], np.asarray(same[:, 3:7])).max() < 2e-3


GOOD = [0.2, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("action", "found"),
    [
        (GOOD[:7], r"found shape \(7,\), expected \(8,\)"),
        ([GOOD], r"found shape \(1, 8\)"),
        ([], r"found shape \(0,\)"),
        ([*GOOD[:7], math.nan], "expected finite numbers"),
        ([math.inf, *GOOD[1:]], "expected finite numbers"),
        ([*GOOD[:3], 0, 0, 0, 0, 1], "quaternion of length 0"),
        ([*GOOD[:3], 0, 0, 0, 2, 1], "quaternion of length 2"),
        ([*GOOD[:3], 0, 0, 0, 1.02, 1], "quaternion of length 1.02"),
    ],
)
def test_a_bad_action_is_one_line(action: list, found: str) -> None:
    with pytest.raises(InputError, match=found) as error:
        check_action(action)
    assert str(error.value).startswith("action: ") and "\n" not in str(error.value)


@given(actions, position_bins, rotation_bins)
def test_values_between_bins_come_back(action: np.ndarray, places: int, turns: int) -> None:
    position = RLBENCH_WORKSPACE.from_bins(RLBENCH_WORKSPACE.to_bins(action[:3], places), places)
    np.testing.assert_allclose(position, action[:3], atol=1e-5)
    values = rotation_in_bins(action[3:7], turns)
    low = lowest_tilt(turns)
    if low < round(float(values[1])) < turns - low:  # else gimbal lock, where the bin's centre stands for all
        assert rotation_angle(rotation_from_bins(values, turns), canonical_quaternion(action[3:7])) < 2e-3
