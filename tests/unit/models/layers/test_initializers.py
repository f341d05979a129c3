"""Initializers give the numbers of jax's, and share their compiled programs among shapes."""

import jax
import numpy as np
import pytest

from instructrl.models.layers import initializers
from instructrl.models.layers.initializers import lecun_normal, normal, xavier_uniform

THEIRS = jax.nn.initializers
CASES = {
    "normal 0.02": (normal(0.02), THEIRS.normal(0.02)),
    "normal 1": (normal(1.0), THEIRS.normal(1.0)),
    "lecun_normal": (lecun_normal, THEIRS.lecun_normal()),
    "xavier_uniform": (xavier_uniform, THEIRS.xavier_uniform()),
}
SHAPES = [(1, 1), (3, 5), (4096, 1), (4097, 1), (3, 3, 7, 11), (2, 3, 2048), (129, 300)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_their_numbers_are_those_of_jax(name, shape):
    ours, theirs = CASES[name]
    key = jax.random.key(7)
    expected = jax.jit(theirs, static_argnums=1)(key, shape)
    found = ours(key, shape)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found, expected)


def test_one_program_draws_all_arrays_of_about_one_size():
    draws = {lecun_normal: initializers._truncated_normal, normal(0.5): initializers._normal}
    for init, draw in draws.items():
        init(jax.random.key(0), (8, 8))
        before = draw._cache_size()
        for width in range(9, 60):
            init(jax.random.key(width), (width, width))
        assert draw._cache_size() == before


def test_other_types_are_rounded_from_the_same_numbers():
    key = jax.random.key(1)
    found = lecun_normal(key, (32, 16), "bfloat16")
    assert found.dtype == "bfloat16"
    np.testing.assert_array_equal(found, lecun_normal(key, (32, 16)).astype("bfloat16"))
