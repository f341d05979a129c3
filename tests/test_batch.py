"""The batch: its fake fits its spec, every misfit is named, and it travels through jax as it is."""

import pickle

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrl.batch import (
    ACTION_SIZE,
    STATE_SIZE,
    Batch,
    BatchSizes,
    Demonstration,
    batch_spec,
    check_batch,
    fake_batch,
)
from instructrl.errors import InputError

SIZES = BatchSizes(batch=2, steps=3, cameras=2, image_size=8, tokens=5)
few = st.integers(1, 4)
sizes_of_any_kind = st.builds(BatchSizes, batch=few, steps=few, cameras=few, image_size=few, tokens=few)


@given(sizes_of_any_kind)
def test_the_fake_fits_its_spec(sizes: BatchSizes) -> None:
    batch = fake_batch(sizes)
    check_batch(batch, sizes)
    assert set(batch_spec(sizes)) == set(Batch._fields)


def test_the_fake_is_plausible() -> None:
    batch = fake_batch(SIZES)
    assert (batch.step_mask == 1).all() and (batch.actions[..., 6] == 1).all()
    np.testing.assert_array_equal(batch.extrinsics[0, 0, 0], np.eye(4))
    assert (batch.intrinsics[..., 2, 2] == 1).all() and (batch.intrinsics[..., 0, 2] == SIZES.image_size / 2).all()
    assert batch.state.shape[-1] == STATE_SIZE and batch.actions.shape[-1] == ACTION_SIZE


@pytest.mark.parametrize("field", Batch._fields)
def test_a_wrong_shape_or_type_is_named(field: str) -> None:
    batch = fake_batch(SIZES)
    value = getattr(batch, field)
    for wrong in (value[:1], value[..., :-1], value[..., None], value.astype(np.float64)):
        with pytest.raises(InputError) as error:
            check_batch(batch._replace(**{field: wrong}), SIZES)
        line = str(error.value)
        assert line.startswith(f"batch.{field}: found {wrong.dtype}{wrong.shape}, expected {value.dtype}{value.shape}")
        assert "\n" not in line


@pytest.mark.parametrize("size", ["batch", "steps", "cameras", "image_size", "tokens"])
def test_every_size_is_checked(size: str) -> None:
    other = BatchSizes(**{**SIZES.__dict__, size: 7})
    with pytest.raises(InputError, match="expected"):
        check_batch(fake_batch(other), SIZES)


def test_a_batch_is_a_pytree_that_keeps_its_names() -> None:
    batch = fake_batch(SIZES)
    doubled = jax.tree.map(lambda leaf: leaf * 2, batch)
    assert isinstance(doubled, Batch) and len(jax.tree.leaves(batch)) == len(Batch._fields)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(batch)]
    assert names == [f".{field}" for field in Batch._fields]
    stepped = jax.jit(lambda batch: batch._replace(step_mask=batch.step_mask * 0))(batch)
    assert isinstance(stepped, Batch) and not stepped.step_mask.any()
    check_batch(stepped, SIZES)  # arrays on a device fit as well


def test_batches_and_demonstrations_survive_pickling() -> None:
    batch = pickle.loads(pickle.dumps(fake_batch(SIZES)))
    assert isinstance(batch, Batch)
    check_batch(batch, SIZES)
    empty = np.zeros(0)
    one = Demonstration(empty, empty, empty, empty, empty, empty, ("do it",), variation=1, seed=2)
    assert pickle.loads(pickle.dumps(one)).instructions == ("do it",)
