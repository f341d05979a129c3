"""Batch: the fake matches its spec, every mismatch is named, and jax preserves its structure."""

import pickle
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrl.errors import InputError
from instructrl.types import (
    ACTION_SIZE,
    GRIPPER_STATE,
    Batch,
    BatchSizes,
    Demonstration,
    Features,
    FeatureSizes,
    batch_spec,
    check_batch,
    fake_batch,
    named_arrays,
)

SIZES = BatchSizes(batch=2, steps=3, cameras=2, image_size=8, tokens=5)
FEATURES = FeatureSizes(pooled=6, text=4, patches=(9, 3), dtype="bfloat16")
CACHED = replace(SIZES, features=FEATURES)
few = st.integers(1, 4)
features_of_any_kind = st.builds(
    FeatureSizes,
    pooled=few,
    text=st.integers(0, 4),
    patches=st.none() | st.tuples(few, few),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
sizes_of_any_kind = st.builds(
    BatchSizes,
    batch=few,
    steps=few,
    cameras=few,
    image_size=few,
    tokens=few,
    features=st.none() | features_of_any_kind,
)


def fields(sizes: BatchSizes) -> list[str]:
    """Return the names of the arrays of a batch of these sizes."""
    return [key for key, value in named_arrays(fake_batch(sizes)).items() if value is not None]


def replaced(batch: Batch, field: str, value: Any) -> Batch:
    """Return the batch with one array replaced, also one of its features."""
    if not field.startswith("features."):
        return batch._replace(**{field: value})
    features = batch.features or Features(None, None, None)
    return batch._replace(features=features._replace(**{field.removeprefix("features."): value}))


@given(sizes_of_any_kind)
def test_the_fake_fits_its_spec(sizes: BatchSizes) -> None:
    batch = fake_batch(sizes)
    check_batch(batch, sizes)
    assert set(batch_spec(sizes)) == set(fields(sizes))
    assert (batch.images is None) != (batch.features is None)


def test_features_have_the_shapes_that_the_batch_says() -> None:
    batch = fake_batch(CACHED)
    assert [part.shape for part in batch.features] == [(2, 3, 2, 6), (2, 4), (2, 3, 2, 9, 3)]
    assert {str(part.dtype) for part in batch.features} == {"bfloat16"}
    without = fake_batch(replace(SIZES, features=replace(FEATURES, patches=None, text=0, dtype="float32")))
    assert without.features.patches is None and without.features.text.shape == (2, 0)
    assert without.features.pooled.dtype == np.float32


def test_the_fake_is_plausible() -> None:
    batch = fake_batch(SIZES)
    assert (batch.step_mask == 1).all() and (batch.actions[..., 6] == 1).all()
    np.testing.assert_array_equal(batch.extrinsics[0, 0, 0], np.eye(4))
    assert (batch.intrinsics[..., 2, 2] == 1).all() and (batch.intrinsics[..., 0, 2] == SIZES.image_size / 2).all()
    assert batch.state.shape[-1] == len(GRIPPER_STATE) and batch.actions.shape[-1] == ACTION_SIZE


@pytest.mark.parametrize(("sizes", "field"), [(sizes, field) for sizes in (SIZES, CACHED) for field in fields(sizes)])
def test_a_wrong_shape_or_type_is_named(sizes: BatchSizes, field: str) -> None:
    batch = fake_batch(sizes)
    value = named_arrays(batch)[field]
    for wrong in (value[:1], value[..., :-1], value[..., None], value.astype(np.float64)):
        with pytest.raises(InputError) as error:
            check_batch(replaced(batch, field, wrong), sizes)
        line = str(error.value)
        assert line.startswith(f"batch.{field}: found {wrong.dtype}{wrong.shape}, expected {value.dtype}{value.shape}")
        assert "\n" not in line


@pytest.mark.parametrize(
    ("found", "sizes", "field"),
    [
        (SIZES, CACHED, "images"),
        (CACHED, SIZES, "images"),
        (replace(SIZES, features=replace(FEATURES, patches=None)), CACHED, "features.patches"),
        (CACHED, replace(SIZES, features=replace(FEATURES, patches=None)), "features.patches"),
        (replace(SIZES, features=replace(FEATURES, dtype="float32")), CACHED, "features.pooled"),
    ],
)
def test_images_and_features_are_there_only_where_asked(found: BatchSizes, sizes: BatchSizes, field: str) -> None:
    with pytest.raises(InputError, match=rf"batch\.{field}: found .*, expected .*features agree"):
        check_batch(fake_batch(found), sizes)


def test_a_batch_with_both_is_refused() -> None:
    both = fake_batch(CACHED)._replace(images=fake_batch(SIZES).images)
    for sizes, field in ((SIZES, r"features\.pooled: found bfloat16"), (CACHED, "images: found uint8")):
        with pytest.raises(InputError, match=rf"batch\.{field}.*, expected None"):
            check_batch(both, sizes)


@pytest.mark.parametrize("size", ["batch", "steps", "cameras", "image_size", "tokens", "state"])
def test_every_size_is_checked(size: str) -> None:
    other = BatchSizes(**{**SIZES.__dict__, size: 7})
    with pytest.raises(InputError, match="expected"):
        check_batch(fake_batch(other), SIZES)


@pytest.mark.parametrize("sizes", [SIZES, CACHED])
def test_a_batch_is_a_pytree_that_keeps_its_names(sizes: BatchSizes) -> None:
    batch = fake_batch(sizes)
    doubled = jax.tree.map(lambda leaf: leaf * 2, batch)
    assert isinstance(doubled, Batch) and len(jax.tree.leaves(batch)) == len(fields(sizes))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(batch)]
    assert names == [f".{field}" for field in fields(sizes)]
    stepped = jax.jit(lambda batch: batch._replace(step_mask=batch.step_mask * 0))(batch)
    assert isinstance(stepped, Batch) and not stepped.step_mask.any()
    check_batch(stepped, sizes)  # arrays on a device match as well


def test_batches_and_demonstrations_survive_pickling() -> None:
    for sizes in (SIZES, CACHED):
        batch = pickle.loads(pickle.dumps(fake_batch(sizes)))
        assert isinstance(batch, Batch)
        check_batch(batch, sizes)
    empty = np.zeros(0)
    one = Demonstration(empty, empty, empty, empty, empty, empty, ("do it",), variation=1, seed=2)
    assert pickle.loads(pickle.dumps(one)).instructions == ("do it",)
