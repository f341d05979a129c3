"""How attention and a row of transformer blocks are computed; never what they compute.

Letters: M sequences, T queries, S keys, N heads, H head width, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from instructrl.errors import InputError

WIDEST_HEAD, HEAD_STEP = 128, 8  # that cuDNN's fused attention takes on every GPU that has it


@dataclass(frozen=True)
class Strategy:
    """The same numbers and parameters in other ways: `hardware.attention`, `hardware.remat` and `hardware.scan`."""

    attention: str = "xla"
    remat: bool = False  # blocks are computed again for the gradient, which keeps only what goes into each
    scan: bool = False  # one block is compiled, for all


PLAIN = Strategy()


def attend(
    query: Float[Array, "M T N H"],
    key: Float[Array, "M S N H"],
    value: Float[Array, "M S N H"],
    *,
    mask: Bool[Array, "#M 1 #T S"] | None,
    attention: str,
) -> Float[Array, "M T N H"]:
    """Softmax attention, its softmax in float32; `auto` is fused where the device, the type and the head allow it.

    Raises:
        InputError: `cudnn` is asked for, and does not take such heads.
    """
    width = query.shape[-1]
    fits = width <= WIDEST_HEAD and width % HEAD_STEP == 0
    if attention == "cudnn" and not fits:
        raise InputError(
            f"hardware.attention: found cudnn for heads {width} wide; allowed: auto or xla, "
            f"or heads of a multiple of {HEAD_STEP} up to {WIDEST_HEAD}"
        )
    if attention == "cudnn" or (attention == "auto" and fits and query.dtype == jnp.bfloat16 and has_cudnn()):
        return fused(query, key, value, mask=mask)
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


def has_cudnn() -> bool:
    """Whether jax computes on an NVIDIA GPU."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


def fused(query: Array, key: Array, value: Array, *, mask: Array | None) -> Array:
    """Attention of cuDNN, of one more query and key where they are odd: its gradient wants even ones under a mask."""
    count, keys = query.shape[1], key.shape[1]
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], count, keys))
        odd_query, odd_key = count % 2, keys % 2
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, odd_key)))  # which nobody looks at
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, odd_query), (0, 0)), constant_values=True)
        query = jnp.pad(query, ((0, 0), (0, odd_query), (0, 0), (0, 0)))
        key, value = (jnp.pad(part, ((0, 0), (0, odd_key), (0, 0), (0, 0))) for part in (key, value))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")[:, :count]


def evened(x_MSD: Array, padding_MS: Array) -> tuple[Array, Array]:
    """Tokens and their padding, of one padding token more where fused attention would add it in every block."""
    odd = x_MSD.shape[1] % 2 if x_MSD.dtype == jnp.bfloat16 and has_cudnn() else 0
    return jnp.pad(x_MSD, ((0, 0), (0, odd), (0, 0))), jnp.pad(padding_MS, ((0, 0), (0, odd)), constant_values=1)


def whole(x: Array) -> Array:
    """The output of a block as it is."""
    return x


def run_blocks(
    owner: nn.Module,
    make: Callable[..., nn.Module],
    names: Sequence[str],
    x_MSD: Array,
    *given: Any,
    strategy: Strategy,
    watch: Callable[[Array], Any] = whole,
) -> tuple[Array, list[Any]]:
    """Blocks in a row, and what `watch` makes of the output of each.

    Args:
        owner: whose parameters the blocks are, each under its name, whatever the strategy.
        make: makes a block, which is called with x and `given`.
        names: of the blocks; all have parameters of the same shapes if they are scanned.
        x_MSD: what goes into the first.
        given: what all of them are given.
        strategy: how they are computed.
        watch: a function of arrays alone.
    """
    if owner.is_initializing() or not (strategy.remat or strategy.scan):
        seen = []
        for name in names:
            x_MSD = make(name=name)(x_MSD, *given)
            seen.append(watch(x_MSD))
        return x_MSD, seen

    block, params = make(parent=None), [owner.variables["params"][name] for name in names]

    def step(x: Array, params: Any) -> tuple[Array, Any]:
        answer: Any = block.apply({"params": params}, x, *given)
        return answer, watch(answer)

    if strategy.remat:
        step = jax.checkpoint(step, prevent_cse=not strategy.scan)
    if strategy.scan and len(names) > 1:
        x_MSD, stacked = jax.lax.scan(step, x_MSD, jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))
        return x_MSD, [jax.tree.map(lambda leaf, index=index: leaf[index], stacked) for index in range(len(names))]
    seen = []
    for each in params:
        x_MSD, found = step(x_MSD, each)
        seen.append(found)
    return x_MSD, seen
