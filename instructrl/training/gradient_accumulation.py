"""Exact gradient accumulation over microbatches, for batches that do not fit into memory.

Shape suffixes: P microbatches, B batch.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from instructrl.training.distributed.mesh import DATA, FSDP
from instructrl.training.types import Params, StepMetrics
from instructrl.types import Batch

BatchT = TypeVar("BatchT")  # a pytree of arrays [B, ...]
Loss = Callable[[Params, BatchT], tuple[Float[Array, ""], StepMetrics]]  # all of them means over the same examples


def num_valid_steps(batch: Batch) -> Float[Array, ""]:
    """Number of unpadded steps in a batch of demonstrations."""
    return batch.step_mask.sum()


def mean_gradient(
    loss: Loss[BatchT],
    params: Params,
    batch: BatchT,
    *,
    microbatches: int,
    shardings: PyTree[NamedSharding] | None,
    count: Callable[[BatchT], Float[Array, ""]],
) -> tuple[Params, StepMetrics]:
    """Gradients of the mean loss, and the metrics, of a batch that is processed in sequential microbatches.

    Each microbatch is weighted by `count`, the number of examples its means are over, so that the result equals that
    of the full batch. `shardings`: of the parameters, and hence of their gradients; None on one device.
    """

    def constrain(gradients: Params) -> Params:
        return gradients if shardings is None else jax.lax.with_sharding_constraint(gradients, shardings)

    if microbatches == 1:
        gradients, metrics = jax.grad(loss, has_aux=True)(params, batch)
        return constrain(gradients), metrics

    def add(sums: tuple[Params, StepMetrics], microbatch: BatchT) -> tuple[tuple[Params, StepMetrics], None]:
        gradients, metrics = jax.grad(loss, has_aux=True)(params, microbatch)
        weight = count(microbatch)
        weighted = jax.tree.map(lambda mean: weight * mean, (constrain(gradients), metrics))
        gradient_sums, metric_sums = jax.tree.map(jnp.add, sums, weighted)
        return (constrain(gradient_sums), metric_sums), None

    mesh = None if shardings is None else jax.tree.leaves(shardings)[0].mesh
    stacked = split_batch(batch, microbatches, mesh=mesh)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(jax.grad(loss, has_aux=True), params, batch))
    sums, _ = jax.lax.scan(add, (constrain(zeros[0]), zeros[1]), stacked)
    total_count = jnp.maximum(count(batch), 1)
    return jax.tree.map(lambda total: total / total_count, sums)


def split_batch(batch: BatchT, microbatches: int, *, mesh: Mesh | None) -> BatchT:
    """Reshape arrays [B, ...] to [P, B/P, ...]; every device splits its own rows, so that none are transferred."""
    devices = 1 if mesh is None else mesh.size

    def split(leaf: Array) -> Array:
        rows = leaf.shape[0] // (devices * microbatches)
        apart = leaf.reshape(devices, microbatches, rows, *leaf.shape[1:]).swapaxes(0, 1)
        together = apart.reshape(microbatches, devices * rows, *leaf.shape[1:])
        if mesh is None:
            return together
        return jax.lax.with_sharding_constraint(together, NamedSharding(mesh, PartitionSpec(None, (DATA, FSDP))))

    return jax.tree.map(split, batch)
