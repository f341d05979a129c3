"""Convolution over images, with a fast gradient of its kernel on CPUs.

XLA for CPUs computes that gradient at a quarter of the rate of the convolution itself, and within a loop, as over
microbatches, at a hundredth. For small images it is computed there by matrix products, which are faster where there are
many (`tests/bench/convolution.py`).

Shape suffixes: M images, h w pixels, C channels, D outputs.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.models.layers.initializers import lecun_normal

LAYOUT = ("NHWC", "HWIO", "NHWC")
PIXELS = 1024  # at a time, whose copies stay in a core's cache
SMALL = 256  # pixels of an image; of larger ones XLA's gradient is as fast or faster


class Convolution(nn.Module):
    """Convolution with a square window of an odd size, to images of the same size; parameters as in `nn.Conv`."""

    features: int
    window: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "M h w C"]) -> Float[Array, "M h w D"]:
        kernel = self.param("kernel", lecun_normal, (self.window, self.window, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolve(x, kernel) + bias


@jax.custom_vjp
def convolve(x: Float[Array, "M h w C"], kernel: Float[Array, "window window C D"]) -> Float[Array, "M h w D"]:
    """Convolution with a square window of odd size, to images of the same size: beyond their border they are zero.

    It has no derivatives in forward mode (`jax.jvp`).

    Raises:
        ValueError: the window is not square, or its size is even.
    """
    if kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"kernel: found a window of {kernel.shape[0]} x {kernel.shape[1]}; allowed: odd squares")
    return _by_xla(x, kernel)


def _by_xla(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _backward(operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = operands
    # of the input: the convolution of the gradient with the kernel turned by half a turn
    of_x = convolve(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))

    def by_products() -> Array:
        return kernel_gradient(x, gradient, kernel.shape[0])

    def by_xla() -> Array:
        return jax.linear_transpose(partial(_by_xla, x), kernel)(gradient)[0]

    if x.shape[1] * x.shape[2] > SMALL:
        return of_x, by_xla()
    return of_x, jax.lax.platform_dependent(cpu=by_products, default=by_xla)


def kernel_gradient(
    x: Float[Array, "M h w C"], gradient: Float[Array, "M h w D"], window: int
) -> Float[Array, "window window C D"]:
    """Gradient of the kernel, in matrix products over the pixels of some images, which are summed.

    Images are divided among devices in order, so each device multiplies its own: none gathers those of the others.
    """
    count, height, width, _ = x.shape
    parts = jax.device_count() if count % jax.device_count() == 0 else 1
    most = max(1, PIXELS // (height * width))
    together = max(size for size in range(1, most + 1) if (count // parts) % size == 0)

    def split(images: Array) -> Array:
        of_devices = images.reshape(parts, -1, together, *images.shape[1:])
        return of_devices.swapaxes(0, 1).reshape(-1, parts * together, *images.shape[1:])

    groups = (split(x), split(gradient))

    def add(total: Array, group: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _of_group(*group, window), None

    zeros = jnp.zeros((window, window, x.shape[-1], gradient.shape[-1]), jnp.float32)
    return jax.lax.scan(add, zeros, groups)[0].astype(x.dtype)


def _of_group(x: Array, gradient: Array, window: int) -> Array:
    """The gradient of some images, float32: for each row of the window, one product with its columns side by side."""
    height, width, channels = x.shape[1:]
    border, outputs = window // 2, gradient.shape[-1]
    x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    shifted = jnp.concatenate([x[:, :, column : column + width] for column in range(window)], axis=-1)
    pixels = gradient.reshape(-1, outputs)
    multiply = partial(jnp.matmul, pixels.T, preferred_element_type=jnp.float32)
    rows = [multiply(shifted[:, row : row + height].reshape(-1, window * channels)) for row in range(window)]
    return jnp.stack(rows).reshape(window, outputs, window, channels).transpose(0, 2, 3, 1)


convolve.defvjp(_forward, _backward)
