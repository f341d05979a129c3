"""Random initial parameters, drawn by few compiled programs, and flax's layers with them.

XLA compiles a random number generator anew for each shape, of which a model has dozens: that took longer than the
rest of a start. Here numbers are drawn in vectors whose lengths are powers of two, of which the first ones are used, so
that a handful of programs, which the compilation cache keeps, serves every model. A number depends on the key and its
place in the array only, so values are those of `jax.nn.initializers`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]  # of a key, a shape and a dtype

SHORTEST = 4096  # length up to which all arrays share a program
TRUNCATED_STD = np.float32(0.87962566103423978)  # standard deviation of a normal distribution cut off at -2 and 2


@partial(jax.jit, static_argnums=1)
def _uniform(key: jax.Array, length: int) -> jax.Array:
    return jax.random.uniform(key, (length,), minval=-1, maxval=1)


@partial(jax.jit, static_argnums=1)
def _normal(key: jax.Array, length: int) -> jax.Array:
    # jax.random.normal without its factor, which XLA multiplies by that of the standard deviation
    return jax.lax.erf_inv(jax.random.uniform(key, (length,), minval=np.nextafter(np.float32(-1), 0), maxval=1))


@partial(jax.jit, static_argnums=1)
def _truncated_normal(key: jax.Array, length: int) -> jax.Array:
    return jax.random.truncated_normal(key, -2, 2, (length,))


@partial(jax.jit, static_argnums=(2, 3))
def _scaled(values: jax.Array, factor: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return (values[: math.prod(shape)] * factor).reshape(shape).astype(dtype)


def _length(shape: Sequence[int]) -> int:
    """The number of values that are drawn for an array."""
    return max(SHORTEST, 1 << (math.prod(shape) - 1).bit_length())


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Numbers of inputs and outputs of a kernel: those of a convolution are multiplied by the size of its window."""
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


def normal(std: float) -> Initializer:
    """Normal distribution around 0 with a standard deviation."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        factor = np.float32(np.sqrt(2)) * np.float32(std)
        return _scaled(_normal(key, _length(shape)), factor, tuple(shape), dtype)

    return init


def lecun_normal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    """Normal distribution cut off at two standard deviations, of variance 1 / inputs (LeCun et al., 1998)."""
    factor = np.sqrt(np.float32(1 / _fans(shape)[0])) / TRUNCATED_STD
    return _scaled(_truncated_normal(key, _length(shape)), factor, tuple(shape), dtype)


def xavier_uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    """Uniform distribution around 0 of variance 2 / (inputs + outputs) (Glorot and Bengio, 2010)."""
    factor = np.sqrt(np.float32(3) * np.float32(1 / (sum(_fans(shape)) / 2)))
    return _scaled(_uniform(key, _length(shape)), factor, tuple(shape), dtype)


Dense = partial(nn.Dense, kernel_init=lecun_normal)
DenseGeneral = partial(nn.DenseGeneral, kernel_init=lecun_normal)
