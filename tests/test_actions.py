"""Actions: exact inverse pairs, one quaternion per rotation, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from instructrl.actions import (
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    canonical_quaternion,
    check_action,
    denormalize_position,
    normalize_position,
    rotation_angle,
)
from instructrl.errors import InputError

positions = arrays(np.float32, (3,), elements=st.floats(-2, 2, width=32))
numbers = st.floats(-1, 1, width=32)
quaternions = arrays(np.float64, (4,), elements=numbers).filter(lambda q: np.linalg.norm(q) > 1e-3)
unit_quaternions = quaternions.map(lambda q: q / np.linalg.norm(q))


def matrix(q: np.ndarray) -> np.ndarray:
    """The rotation matrix of a unit quaternion x y z w, by the textbook."""
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@given(positions)
def test_normalising_and_back_is_the_same_place(position: np.ndarray) -> None:
    np.testing.assert_allclose(denormalize_position(normalize_position(position)), position, atol=1e-6)
    np.testing.assert_allclose(normalize_position(denormalize_position(position)), position, atol=1e-5)


def test_the_workspace_is_the_cube_from_minus_one_to_one() -> None:
    np.testing.assert_allclose(normalize_position(WORKSPACE_LOW), [-1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(normalize_position(WORKSPACE_HIGH), [1, 1, 1], atol=1e-6)
    assert normalize_position(np.zeros((2, 5, 3), np.float32)).dtype == np.float32


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
    positions = rng.normal(size=(200, 3)).astype(np.float32)
    np.testing.assert_allclose(normalize_position(positions), normalize_position(jnp.asarray(positions)), atol=1e-5)


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
