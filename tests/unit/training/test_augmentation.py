"""Random changes of a training batch."""

import jax
import numpy as np
import pytest

from instructrl.models.geometry import project
from instructrl.training.objectives.augmentation import shift_images
from instructrl.types import Batch, BatchSizes, fake_batch

SIZE, PIXELS = 16, 3
SIZES = BatchSizes(batch=2, steps=3, cameras=2, image_size=SIZE, tokens=5)


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 2, SIZE, SIZE, 3), np.uint8)
    intrinsics = np.tile(np.array([[20, 0, 8], [0, 24, 7], [0, 0, 1]], np.float32), (2, 3, 2, 1, 1))
    extrinsics = np.tile(np.eye(4, dtype=np.float32), (2, 3, 2, 1, 1))
    return fake_batch(SIZES)._replace(images=images, intrinsics=intrinsics, extrinsics=extrinsics)


def shifts(given: Batch, shifted: Batch) -> np.ndarray:
    """The distance by which the points of the images have moved, x y in pixels [B T K 2]."""
    point = np.tile(np.array([0.1, -0.2, 2], np.float32), (2, 3, 1))
    before, after = (project(point, one.intrinsics, one.extrinsics)[0] for one in (given, shifted))
    return np.asarray(after - before)


def test_every_pixel_stays_at_its_point_in_the_world(batch: Batch) -> None:
    shifted = shift_images(batch, jax.random.key(0), pixels=PIXELS)
    moved = shifts(batch, shifted)
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-4)
    assert shifted.images.dtype == np.uint8
    for place in np.ndindex(2, 3, 2):
        across, down = np.rint(moved[place]).astype(int)
        rows, columns = (np.clip(np.arange(SIZE) - by, 0, SIZE - 1) for by in (down, across))
        expected = batch.images[place][np.ix_(rows, columns)]  # the edge is repeated
        np.testing.assert_array_equal(shifted.images[place], expected)


def test_images_are_shifted_each_by_itself_in_all_directions_and_not_too_far(batch: Batch) -> None:
    found = [
        shifts(batch, shift_images(batch, jax.random.key(seed), pixels=PIXELS)).reshape(-1, 2) for seed in range(9)
    ]
    assert {*np.rint(np.concatenate(found)).astype(int).ravel()} == {*range(-PIXELS, PIXELS + 1)}
    assert all(len({*map(tuple, np.rint(one))}) > 6 for one in found)


def test_the_same_key_gives_the_same_images_and_nothing_else_changes(batch: Batch) -> None:
    first, second = (shift_images(batch, jax.random.key(4), pixels=PIXELS) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    for name in Batch._fields:
        if name not in ("images", "intrinsics"):
            assert getattr(first, name) is getattr(batch, name)
