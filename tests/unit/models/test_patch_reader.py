"""Slots of attention over patches: what they read, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.models.initialization import draw_params
from instructrl.models.patch_reader import PatchReader, patch_places

SIDE, SLOTS = 4, 3


@pytest.fixture(scope="module")
def reader():
    """A reader, its parameters, a query and patches of two cameras."""
    keys = jax.random.split(jax.random.key(0), 3)
    query, patches = jax.random.normal(keys[0], (2, 3, 8)), jax.random.normal(keys[1], (2, 3, 2, SIDE * SIDE, 6))
    module = PatchReader(SLOTS, 16)
    return module, {"params": draw_params(module, keys[2], query, patches)}, query, patches


def test_a_slot_reads_the_mean_patch_and_place_that_it_attends_to(reader):
    module, params, query, patches = reader
    reading = module.apply(params, query, patches)
    assert reading.scores.shape == (2, 3, 2, SLOTS, SIDE * SIDE + 1)
    attention = np.asarray(jax.nn.softmax(reading.scores, axis=-1))[..., :-1]
    np.testing.assert_allclose(reading.attended, np.einsum("btknp,btkpd->btknd", attention, patches), rtol=1e-4)
    place = reading.summary.reshape(2, 3, 2, SLOTS, -1)[..., -3:]
    np.testing.assert_allclose(place[..., :2], attention @ np.asarray(patch_places(SIDE)), atol=1e-5)
    np.testing.assert_allclose(place[..., 2], attention.sum(axis=-1), rtol=1e-5)


def test_what_a_slot_attends_to_depends_on_the_query(reader):
    module, params, query, patches = reader
    scores, others = (module.apply(params, each, patches).scores for each in (query, -query))
    differences = jnp.ptp(scores - others, axis=-1)  # a constant would leave the attention as it is
    assert (differences > 1e-3).all()


def test_places_run_from_left_to_right_and_from_top_to_bottom():
    places = patch_places(2)
    np.testing.assert_allclose(places, [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
