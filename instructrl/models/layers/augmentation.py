"""Random resized crops and horizontal flips of a batch, on the device.

Shapes: M images, C pixels along an input image, S along an output image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

MAX_ASPECT = 4 / 3  # of a crop's width to its height before resizing to a square; the minimum is the inverse


class CropParams(NamedTuple):
    """A crop of each image; lengths as fractions of the image's side."""

    top: Float[Array, " M"]
    left: Float[Array, " M"]
    height: Float[Array, " M"]
    width: Float[Array, " M"]
    mirrored: Bool[Array, " M"]


def full_crops(count: int) -> CropParams:
    """Crops that cover the entire images, not mirrored."""
    zeros, ones = jnp.zeros(count), jnp.ones(count)
    return CropParams(zeros, zeros, ones, ones, jnp.zeros(count, bool))


def random_crops(key: Array, count: int, *, share: tuple[float, float], flip: bool) -> CropParams:
    """Crops whose area is a random fraction of the image between two bounds, half of them mirrored if `flip`."""
    area_key, ratio_key, top_key, left_key, flip_key = jax.random.split(key, 5)
    area = jax.random.uniform(area_key, (count,), minval=share[0], maxval=share[1])
    limit = jnp.log(MAX_ASPECT) * (share[0] < 1)  # without cropping no change of the aspect ratio either
    ratio = jnp.exp(jax.random.uniform(ratio_key, (count,), minval=-limit, maxval=limit))
    height, width = (jnp.minimum(jnp.sqrt(side), 1.0) for side in (area / ratio, area * ratio))
    top = jax.random.uniform(top_key, (count,)) * (1 - height)
    left = jax.random.uniform(left_key, (count,)) * (1 - width)
    mirrored = jax.random.bernoulli(flip_key, 0.5, (count,)) if flip else jnp.zeros(count, bool)
    return CropParams(top, left, height, width, mirrored)


def crop_and_resize(images: UInt8[Array, "M C C 3"], views: CropParams, *, size: int) -> UInt8[Array, "M S S 3"]:
    """Resize crops to squares of `size` pixels: bilinear, with antialiasing when downscaling."""
    count, side = len(images), images.shape[1]
    rows_MSC = resize_weights(views.top, views.height, side, size)
    columns_MSC = resize_weights(views.left, views.width, side, size)
    columns_MSC = jnp.where(views.mirrored[:, None, None], columns_MSC[:, ::-1], columns_MSC)
    flat = images.astype(jnp.float32).reshape(count, side, side * 3)
    x = jnp.einsum("msc,mck->msk", rows_MSC, flat).reshape(count, size, side, 3)
    x = jnp.einsum("mtc,mscr->mstr", columns_MSC, x)
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def resize_weights(
    start: Float[Array, " M"], length: Float[Array, " M"], side: int, size: int
) -> Float[Array, "M S C"]:
    """Weights (triangle filter) of `side` input pixels for each of `size` output pixels that cover a crop."""
    step = (length * side / size)[:, None, None]  # input pixels per output pixel
    centre = (start * side)[:, None, None] + (jnp.arange(size)[None, :, None] + 0.5) * step
    distance = jnp.abs(jnp.arange(side)[None, None, :] + 0.5 - centre) / jnp.maximum(step, 1.0)
    triangle = jnp.maximum(1 - distance, 0.0)
    return triangle / triangle.sum(axis=-1, keepdims=True)
