"""Random crops and mirror images of a batch, on the device.

Letters: M images, C pixels along a canvas, S along what is made of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

WIDEST = 4 / 3  # of a crop: its width over its height, before it is made a square; at least the inverse of this


class Views(NamedTuple):
    """What is shown of each canvas; lengths as shares of its side."""

    top: Float[Array, " M"]
    left: Float[Array, " M"]
    height: Float[Array, " M"]
    width: Float[Array, " M"]
    mirrored: Bool[Array, " M"]


def whole_views(count: int) -> Views:
    """The canvases as they are."""
    zeros, ones = jnp.zeros(count), jnp.ones(count)
    return Views(zeros, zeros, ones, ones, jnp.zeros(count, bool))


def random_views(key: Array, count: int, *, share: tuple[float, float], flip: bool) -> Views:
    """Crops whose area is a random share of the canvas within two bounds, half of them mirrored if `flip`."""
    area_key, ratio_key, top_key, left_key, flip_key = jax.random.split(key, 5)
    area = jax.random.uniform(area_key, (count,), minval=share[0], maxval=share[1])
    limit = jnp.log(WIDEST) * (share[0] < 1)  # no crops at all: not stretched either
    ratio = jnp.exp(jax.random.uniform(ratio_key, (count,), minval=-limit, maxval=limit))
    height, width = (jnp.minimum(jnp.sqrt(side), 1.0) for side in (area / ratio, area * ratio))
    top = jax.random.uniform(top_key, (count,)) * (1 - height)
    left = jax.random.uniform(left_key, (count,)) * (1 - width)
    mirrored = jax.random.bernoulli(flip_key, 0.5, (count,)) if flip else jnp.zeros(count, bool)
    return Views(top, left, height, width, mirrored)


def shown(images: UInt8[Array, "M C C 3"], views: Views, *, size: int) -> UInt8[Array, "M S S 3"]:
    """The views as squares of `size` pixels: bilinear, with antialiasing where they are made smaller."""
    count, side = len(images), images.shape[1]
    rows_MSC = weights(views.top, views.height, side, size)
    columns_MSC = weights(views.left, views.width, side, size)
    columns_MSC = jnp.where(views.mirrored[:, None, None], columns_MSC[:, ::-1], columns_MSC)
    flat = images.astype(jnp.float32).reshape(count, side, side * 3)
    x = jnp.einsum("msc,mck->msk", rows_MSC, flat).reshape(count, size, side, 3)
    x = jnp.einsum("mtc,mscr->mstr", columns_MSC, x)
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def weights(start: Float[Array, " M"], length: Float[Array, " M"], side: int, size: int) -> Float[Array, "M S C"]:
    """How much each of `side` pixels counts in each of `size`, which cover what begins at `start`: triangles."""
    step = (length * side / size)[:, None, None]  # pixels of the canvas under one that is made
    centre = (start * side)[:, None, None] + (jnp.arange(size)[None, :, None] + 0.5) * step
    distance = jnp.abs(jnp.arange(side)[None, None, :] + 0.5 - centre) / jnp.maximum(step, 1.0)
    triangle = jnp.maximum(1 - distance, 0.0)
    return triangle / triangle.sum(axis=-1, keepdims=True)
