"""Convolutions have the numbers, parameters and gradients of flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.models.layers.convolution import Convolution, convolve, kernel_gradient

SHAPES = [(1, 1, 1, 1), (4, 8, 8, 3), (7, 5, 9, 6), (3, 40, 30, 2), (16, 16, 16, 4), (2, 2, 3, 5)]


def both(window, shape, outputs, dtype=jnp.float32):
    """Output, parameters' and input's gradients of ours and of flax's, with the same parameters."""
    x = jax.random.normal(jax.random.key(0), shape)
    theirs = nn.Conv(outputs, (window, window), dtype=dtype)
    params = theirs.init(jax.random.key(1), x)
    weight = jax.random.normal(jax.random.key(2), (*shape[:3], outputs))

    def loss(layer):
        def value(params, x):
            output = layer.apply(params, x)
            return (output.astype(jnp.float32) * weight).sum(), output

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(params, x)

    return loss(Convolution(outputs, window, dtype)), loss(theirs)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_flax(window, shape):
    ours, theirs = both(window, shape, outputs=7)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-4), ours, theirs)


def test_bfloat16_stays_bfloat16():
    ours, theirs = both(3, (4, 8, 8, 6), 5, jnp.bfloat16)
    assert jax.tree.map(lambda leaf: leaf.dtype, ours) == jax.tree.map(lambda leaf: leaf.dtype, theirs)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=0.05, atol=0.3), ours, theirs)


def test_parameters_have_the_names_and_shapes_of_flax():
    x = np.zeros((1, 4, 4, 3), np.float32)
    ours, theirs = (layer.init(jax.random.key(0), x) for layer in (Convolution(6, 3), nn.Conv(6, (3, 3))))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)


def test_the_gradient_in_groups_of_images_is_that_of_each_alone():
    x, gradient = (jax.random.normal(jax.random.key(seed), (12, 10, 9, width)) for seed, width in ((0, 3), (1, 4)))
    alone = sum(kernel_gradient(x[one : one + 1], gradient[one : one + 1], 3) for one in range(12))
    np.testing.assert_allclose(kernel_gradient(x, gradient, 3), alone, rtol=1e-4, atol=1e-4)


def test_devices_that_share_a_batch_do_not_exchange_images():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, gradient = (jax.device_put(np.ones((64, 12, 12, width), np.float32), sharding) for width in (3, 4))
    program = jax.jit(kernel_gradient, static_argnums=2).lower(x, gradient, 3).compile().as_text()
    assert "all-gather" not in program and "all-to-all" not in program and "all-reduce" in program


@pytest.mark.parametrize("window", [(2, 2), (4, 4), (3, 1)])
def test_windows_that_would_get_a_wrong_gradient_are_refused(window):
    with pytest.raises(ValueError, match=f"found a window of {window[0]} x {window[1]}; allowed: odd squares"):
        jax.grad(lambda kernel: convolve(np.ones((1, 6, 6, 2), np.float32), kernel).sum())(np.ones((*window, 2, 3)))


@pytest.mark.parametrize("mapped", [lambda function, x: jax.vmap(function)(x), jax.lax.map], ids=["vmap", "loop"])
def test_mapped_over_batches_the_gradient_is_that_of_all_images(mapped):
    x = jax.random.normal(jax.random.key(0), (3, 4, 6, 6, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 5))

    def each(kernel):
        return jnp.square(mapped(lambda images: convolve(images, kernel), x)).sum()

    whole = jax.grad(lambda kernel: jnp.square(convolve(x.reshape(12, 6, 6, 2), kernel)).sum())(kernel)
    np.testing.assert_allclose(jax.grad(each)(kernel), whole, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_sum_over_many_images_is_exact():
    """Ones, of which bfloat16 itself could not count more than 256."""
    images = jnp.ones((64, 32, 32, 1), jnp.bfloat16)
    assert float(kernel_gradient(images, images, 3)[1, 1, 0, 0]) == 64 * 32 * 32
