"""Image preprocessing for encoders: resizing, normalization, patches.

Shapes: M images, H W pixels, P patches.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt8

Triple = Sequence[float]  # red, green, blue


def resize(images: Shaped[Array, "M H W 3"], size: int | None, *, method: str = "cubic") -> Array:
    """Resize images to `size` x `size` pixels with integer values in [0, 255]; None leaves them unchanged.

    Bicubic (Keys, a = -0.5), or bilinear for the method "linear", with antialiasing along rows and then columns, each
    rounded, as in PIL, with which CLIP was trained.
    """
    count, height, width, _ = images.shape
    if size is None or (height, width) == (size, size):
        return images
    x = images.astype(jnp.float32)
    for shape in ((count, height, size, 3), (count, size, size, 3)):
        x = jnp.clip(jnp.round(jax.image.resize(x, shape, method, antialias=True)), 0, 255)
    return x


def normalize(images: Shaped[Array, "M H W 3"], mean: Triple, std: Triple) -> Float[Array, "M H W 3"]:
    """Scale values from [0, 255] to [0, 1] and standardize them per channel, float32."""
    return (images.astype(jnp.float32) / 255 - jnp.asarray(mean)) / jnp.asarray(std)


def patchify(images: UInt8[Array, "M H W 3"] | Float[Array, "M H W 3"], side: int) -> Array:
    """Split images into patches [M, P, side * side * 3], row-major, each by row, column and channel."""
    count, height, width, _ = images.shape
    x = images.reshape(count, height // side, side, width // side, side, 3)
    return x.swapaxes(2, 3).reshape(count, -1, side * side * 3)
