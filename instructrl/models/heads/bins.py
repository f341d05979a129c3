"""Distributions over bins of a line or a circle: Gaussian targets, and decoding between bins.

Values are in bins: integers are centres of bins. Shapes: N bins.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WINDOW = 3.0  # standard deviations to each side of the peak from which a value is decoded


def distances(values: Float[Array, "..."], count: int, *, circular: bool) -> Float[Array, "... N"]:
    """Signed distances from values to the centres of all bins."""
    apart = jnp.arange(count) - values[..., None]
    return apart - count * jnp.round(apart / count) if circular else apart


def gaussian_bins(
    values: Float[Array, "..."], count: int, *, sigma: float, circular: bool = False
) -> Float[Array, "... N"]:
    """Shares of bins around values: a Gaussian of standard deviation `sigma`, normalised."""
    apart = distances(values, count, circular=circular)
    return jax.nn.softmax(-0.5 * (apart / sigma) ** 2, axis=-1)


def expected_near_peak(logits: Float[Array, "... N"], *, sigma: float, circular: bool = False) -> Float[Array, "..."]:
    """The mean over the bins around the most likely one: unlike the mean over all, it does not mix two peaks."""
    count = logits.shape[-1]
    peak = jnp.argmax(logits, axis=-1)
    apart = distances(peak.astype(jnp.float32), count, circular=circular)
    near = jnp.abs(apart) <= max(1.0, WINDOW * sigma)
    weights = jax.nn.softmax(jnp.where(near, logits, -jnp.inf), axis=-1)
    return peak + jnp.sum(weights * apart, axis=-1)


def soft_cross_entropy(logits: Float[Array, "... N"], shares: Float[Array, "... N"]) -> Float[Array, "..."]:
    """Cross-entropy with target shares, less their entropy: zero at best."""
    entropy = jnp.sum(jax.scipy.special.entr(shares), axis=-1)
    return -jnp.sum(shares * jax.nn.log_softmax(logits, axis=-1), axis=-1) - entropy
