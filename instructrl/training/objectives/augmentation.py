"""Random changes of a training batch, inside the compiled step: of what is read, never of what is to be done."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from instructrl.types import Batch


def drop_tokens(batch: Batch, key: PRNGKeyArray, *, share: float, special_token_ids: tuple[int, ...] = ()) -> Batch:
    """Mask instruction tokens at random (regularization), except those with `special_token_ids`.

    `share`: the probability that a token is masked.
    """
    hidden = jax.random.bernoulli(key, share, batch.text_padding_mask.shape)
    if special_token_ids:
        hidden &= ~jnp.isin(batch.tokens, jnp.array(special_token_ids))
    return batch._replace(text_padding_mask=jnp.maximum(batch.text_padding_mask, hidden))


def shift_images(batch: Batch, key: PRNGKeyArray, *, pixels: int) -> Batch:
    """Shift every image at random, with its camera matrix, so that every point stays where it is in the world.

    Where nothing moves in, the image's edge is repeated (as in DrQ, Kostrikov et al. 2020).

    Args:
        batch: of images.
        key: of the random numbers.
        pixels: the most by which an image is shifted in x, and in y.
    """
    images, intrinsics = jnp.asarray(batch.images), jnp.asarray(batch.intrinsics)
    shape = images.shape[-3:]
    starts = jax.random.randint(key, (*images.shape[:-3], 2), 0, 2 * pixels + 1)  # x y of what is kept
    edges = [(0, 0)] * (images.ndim - 3) + [(pixels, pixels), (pixels, pixels), (0, 0)]
    padded = jnp.pad(images, edges, mode="edge")

    def kept(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, (start[1], start[0], 0), shape)

    shifted = jax.vmap(kept)(padded.reshape(-1, *padded.shape[-3:]), starts.reshape(-1, 2))
    offset = (starts - pixels).astype(intrinsics.dtype)[..., None]
    rows = intrinsics[..., :2, :] - offset * intrinsics[..., 2:, :]
    return batch._replace(
        images=shifted.reshape(images.shape), intrinsics=jnp.concatenate([rows, intrinsics[..., 2:, :]], axis=-2)
    )
