"""Gradients of a batch that does not fit into memory at once: the sum over its parts, exact.

Letters: P parts, B sequences.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from instructrl.training.mesh import DATA, FSDP

Loss = Callable[[Any, Any], Any]  # (params, batch) -> mean over what counts, metrics that are such means too


def existing_steps(batch: Any) -> Any:
    """What a mean over a batch of demonstrations is over."""
    return batch.step_mask.sum()


def mean_gradient(
    loss: Loss,
    params: Any,
    batch: Any,
    *,
    parts: int,
    shardings: Any,
    counted: Callable[[Any], Any] = existing_steps,
) -> tuple[Any, Any]:
    """Gradients of the loss and the metrics of a batch, computed in parts one after another.

    Each part counts by what its means are over, so that the result is that of the whole batch: `counted` says how
    much that is. `shardings`: where parameters lie, and so their gradients; None on one device.
    """

    def lying(gradients: Any) -> Any:
        return gradients if shardings is None else jax.lax.with_sharding_constraint(gradients, shardings)

    if parts == 1:
        gradients, metrics = jax.grad(loss, has_aux=True)(params, batch)
        return lying(gradients), metrics

    def add(sums: Any, part: Any) -> tuple[Any, None]:
        gradients, metrics = jax.grad(loss, has_aux=True)(params, part)
        weight = counted(part)
        found = jax.tree.map(lambda one: weight * one, (lying(gradients), metrics))
        summed, means = jax.tree.map(jnp.add, sums, found)
        return (lying(summed), means), None

    mesh = None if shardings is None else jax.tree.leaves(shardings)[0].mesh
    microbatches = split_batch(batch, parts, mesh=mesh)
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(jax.grad(loss, has_aux=True), params, batch))
    sums, _ = jax.lax.scan(add, (lying(nothing[0]), nothing[1]), microbatches)
    count = jnp.maximum(counted(batch), 1)
    return jax.tree.map(lambda total: total / count, sums)


def split_batch(batch: Any, parts: int, *, mesh: Any) -> Any:
    """Arrays [B, ...] as [P, B/P, ...]; each device takes its part of the rows that it has, so that none are sent."""
    devices = 1 if mesh is None else mesh.size

    def split(leaf: Any) -> Any:
        rows = leaf.shape[0] // (devices * parts)
        apart = leaf.reshape(devices, parts, rows, *leaf.shape[1:]).swapaxes(0, 1)
        together = apart.reshape(parts, devices * rows, *leaf.shape[1:])
        if mesh is None:
            return together
        return jax.lax.with_sharding_constraint(together, NamedSharding(mesh, PartitionSpec(None, (DATA, FSDP))))

    return jax.tree.map(split, batch)
