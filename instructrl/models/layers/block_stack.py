"""Execution of a stack of transformer blocks: kernel, rematerialization, scan; the result is the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array


@dataclass(frozen=True)
class ExecutionConfig:
    """Execution of blocks and attention: `hardware.attention`, `hardware.remat` and `hardware.scan`.

    Neither parameters nor results depend on it.
    """

    attention: str = "xla"
    remat: bool = False  # recompute blocks in the backward pass, which stores only their inputs
    scan: bool = False  # compile one block for all


DEFAULT_EXECUTION = ExecutionConfig()


def identity(x: Array) -> Array:
    """Return the argument: the readout of a block's full output."""
    return x


def run_blocks(
    owner: nn.Module,
    make: Callable[..., nn.Module],
    names: Sequence[str],
    x_MSD: Array,
    *inputs: Any,
    execution: ExecutionConfig,
    readout: Callable[[Array], Any] = identity,
) -> tuple[Array, list[Any]]:
    """Apply a stack of blocks; also returns `readout(x)` after each.

    Args:
        owner: the module that holds the blocks' parameters by name, regardless of `execution`.
        make: constructs a block, which is called with x and `inputs`.
        names: of the blocks; with scan all blocks must have the same parameter shapes.
        x_MSD: input of the first block.
        inputs: further inputs, the same for all blocks.
        execution: execution options.
        readout: a pure function of the output of a block.
    """
    if owner.is_initializing() or not (execution.remat or execution.scan):
        readouts = []
        for name in names:
            x_MSD = make(name=name)(x_MSD, *inputs)
            readouts.append(readout(x_MSD))
        return x_MSD, readouts

    block, params = make(parent=None), [owner.variables["params"][name] for name in names]

    def step(x: Array, params: Any) -> tuple[Array, Any]:
        output: Any = block.apply({"params": params}, x, *inputs)
        return output, readout(output)

    if execution.remat:
        step = jax.checkpoint(step, prevent_cse=not execution.scan)
    if execution.scan and len(names) > 1:
        x_MSD, stacked = jax.lax.scan(step, x_MSD, jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))
        return x_MSD, [jax.tree.map(lambda leaf, index=index: leaf[index], stacked) for index in range(len(names))]
    readouts = []
    for block_params in params:
        x_MSD, result = step(x_MSD, block_params)
        readouts.append(result)
    return x_MSD, readouts
