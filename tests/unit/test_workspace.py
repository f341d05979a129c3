"""The workspace: exact inverses for any box, and boxes that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from instructrl.errors import InputError
from instructrl.workspace import RLBENCH_WORKSPACE, Workspace

numbers = arrays(np.float64, (3,), elements=st.floats(-5, 5))
sizes = arrays(np.float64, (3,), elements=st.floats(0.05, 5))
workspaces = st.builds(lambda low, size: Workspace.from_numbers([*low, *(low + size)], key=""), numbers, sizes)
shares = arrays(np.float32, (4, 3), elements=st.floats(0, 1, width=32))


@given(workspaces, shares, st.integers(2, 1000))
def test_a_position_is_the_same_in_metres_as_a_share_and_in_bins(
    workspace: Workspace, share: np.ndarray, count: int
) -> None:
    low, high = workspace.bounds
    position = low + share * (high - low)
    np.testing.assert_allclose(workspace.normalize(position), 2 * share - 1, atol=2e-4)
    np.testing.assert_allclose(workspace.denormalize(workspace.normalize(position)), position, atol=2e-5)
    np.testing.assert_allclose(workspace.from_bins(workspace.to_bins(position, count), count), position, atol=2e-5)
    assert workspace.contains(workspace.clip(position + 20)).all()
    assert not workspace.contains(position + 20).any()


@given(workspaces)
def test_the_numbers_and_the_text_say_all(workspace: Workspace) -> None:
    assert Workspace.from_numbers(workspace.numbers, key="") == workspace
    assert Workspace.from_numbers([float(value) for value in str(workspace)[1:-1].split(",")], key="") == workspace


def test_numpy_and_jax_agree_and_answer_in_kind() -> None:
    position = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    for method in (RLBENCH_WORKSPACE.normalize, RLBENCH_WORKSPACE.denormalize, RLBENCH_WORKSPACE.clip):
        ours, theirs = method(position), method(jnp.asarray(position))
        assert isinstance(ours, np.ndarray) and isinstance(theirs, jax.Array) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (RLBENCH_WORKSPACE.contains(position) == np.asarray(RLBENCH_WORKSPACE.contains(jnp.asarray(position)))).all()


def test_the_workspace_around_positions_holds_them_and_a_margin() -> None:
    positions = np.array([[0.2, -0.1, 0.02], [0.5, -0.1, 0.22]])
    found = Workspace.around(positions, margin=0.05, least=0.01)
    assert str(found) == "[0.185,-0.11,0.01,0.515,-0.09,0.23]"  # flat along y


@pytest.mark.parametrize(
    "numbers", [[], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, float("nan")], [-1e9, 0, 0, 1, 1, 1]]
)
def test_what_is_no_box_is_one_line(numbers: list[float]) -> None:
    with pytest.raises(InputError, match=r"^sim\.workspace: found \[.*\]; allowed: six numbers in metres, x y z of"):
        Workspace.from_numbers(numbers, key="sim.workspace")
