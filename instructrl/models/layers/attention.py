"""Attention with XLA or cuDNN's fused kernel; the result is the same.

Shape suffixes: M sequences, T queries, S keys, N heads, H head width, D width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from instructrl.errors import InputError

MAX_HEAD_WIDTH, HEAD_WIDTH_MULTIPLE = 128, 8  # supported by cuDNN's fused attention on every GPU that has it


def attend(
    query: Float[Array, "M T N H"],
    key: Float[Array, "M S N H"],
    value: Float[Array, "M S N H"],
    *,
    mask: Bool[Array, "#M 1 #T S"] | None,
    attention: str,
) -> Float[Array, "M T N H"]:
    """Softmax attention with a float32 softmax; `auto` uses cuDNN where device, dtype and head width allow it.

    Raises:
        InputError: `attention` is `cudnn`, which does not support this head width.
    """
    width = query.shape[-1]
    fits = width <= MAX_HEAD_WIDTH and width % HEAD_WIDTH_MULTIPLE == 0
    if attention == "cudnn" and not fits:
        raise InputError(
            f"hardware.attention: found cudnn for heads of width {width}; allowed: auto or xla, "
            f"or head widths that are multiples of {HEAD_WIDTH_MULTIPLE} up to {MAX_HEAD_WIDTH}"
        )
    if attention == "cudnn" or (attention == "auto" and fits and query.dtype == jnp.bfloat16 and has_cudnn()):
        return cudnn_attention(query, key, value, mask=mask)
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


def has_cudnn() -> bool:
    """Return True if jax runs on an NVIDIA GPU."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


def cudnn_attention(query: Array, key: Array, value: Array, *, mask: Array | None) -> Array:
    """Attention with cuDNN. Masked inputs are padded to even lengths: cuDNN's masked backward pass requires it."""
    count, keys = query.shape[1], key.shape[1]
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], count, keys))
        odd_query, odd_key = count % 2, keys % 2
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, odd_key)))  # padded keys are masked out
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, odd_query), (0, 0)), constant_values=True)
        query = jnp.pad(query, ((0, 0), (0, odd_query), (0, 0), (0, 0)))
        key, value = (jnp.pad(part, ((0, 0), (0, odd_key), (0, 0), (0, 0))) for part in (key, value))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")[:, :count]


def pad_to_even(x_MSD: Array, padding_MS: Array) -> tuple[Array, Array]:
    """Append a padding token to an odd number of tokens once, where cuDNN attention would do so in every block."""
    odd = x_MSD.shape[1] % 2 if x_MSD.dtype == jnp.bfloat16 and has_cudnn() else 0
    return jnp.pad(x_MSD, ((0, 0), (0, odd), (0, 0))), jnp.pad(padding_MS, ((0, 0), (0, odd)), constant_values=1)
