"""Images as encoders take them: resized, normalised, cut into patches.

Letters: M images, H W pixels, P patches, p pixels along a patch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt8

Triple = tuple[float, float, float]  # red, green, blue


def resized(images: Shaped[Array, "M H W 3"], size: int | None) -> Array:
    """Images of `size` x `size` pixels, with whole values in [0, 255]; None leaves them as they are.

    Bicubic (Keys, a = -0.5) with antialiasing, first along rows, then along columns, each rounded: PIL's, with
    which CLIP was trained.
    """
    count, height, width, _ = images.shape
    if size is None or (height, width) == (size, size):
        return images
    x = images.astype(jnp.float32)
    for shape in ((count, height, size, 3), (count, size, size, 3)):
        x = jnp.clip(jnp.round(jax.image.resize(x, shape, "cubic", antialias=True)), 0, 255)
    return x


def normalised(images: Shaped[Array, "M H W 3"], mean: Triple, std: Triple) -> Float[Array, "M H W 3"]:
    """Values from [0, 255] to those with which an encoder was trained, float32."""
    return (images.astype(jnp.float32) / 255 - jnp.asarray(mean)) / jnp.asarray(std)


def patches(images: UInt8[Array, "M H W 3"] | Float[Array, "M H W 3"], side: int) -> Array:
    """[M, P, side * side * 3]: patches row-major, each by row, column and channel."""
    count, height, width, _ = images.shape
    x = images.reshape(count, height // side, side, width // side, side, 3)
    return x.swapaxes(2, 3).reshape(count, -1, side * side * 3)
