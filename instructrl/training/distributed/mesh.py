"""The device mesh with two axes, and the sharding of every array on it.

    data    data parallelism: the batch is split among all devices of both axes
    fsdp    fully sharded data parallelism: large matrices are also split along this axis

An array's sharding follows from its shape alone, so that optimizer state and accumulated gradients are sharded like
their parameters. Results equal those of one device up to the order of summation.
"""

import warnings
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import ArrayLike, PyTree

from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError

DATA, FSDP = "data", "fsdp"
BATCH_SPEC = PartitionSpec((DATA, FSDP))  # a batch is split among all devices
REPLICATED = PartitionSpec()
T = TypeVar("T")  # a pytree
MIN_SHARDED_SIZE = 2**14  # elements; smaller arrays are replicated


def make_mesh(config: HardwareConfig) -> Mesh:
    """The mesh of all processes' devices, as many of each, in the order of the processes.

    Raises:
        InputError: there are too few devices, or `fsdp` does not divide their number.
    """
    groups: dict[int, list[jax.Device]] = {}
    for device in sorted(jax.devices(), key=lambda one: (one.process_index, one.id)):
        groups.setdefault(device.process_index, []).append(device)
    wanted = config.local_devices
    fewest = min(map(len, groups.values()))
    if wanted is not None and wanted > fewest:
        raise InputError(f"hardware.local_devices: found {wanted}; allowed: at most {fewest}, or null for all")
    devices = [device for group in groups.values() for device in group[: wanted or fewest]]
    if len(devices) % config.fsdp:
        raise InputError(
            f"hardware.fsdp: found {config.fsdp}; allowed: a divisor of the number of devices, {len(devices)}"
        )
    return Mesh(np.array(devices).reshape(-1, config.fsdp), (DATA, FSDP))


def check_divisible(mesh: Mesh, *, batch_size: int, accumulation: int) -> None:
    """Raise InputError unless a batch can be split evenly among devices and microbatches."""
    if batch_size % (mesh.size * accumulation):
        times = f" x {accumulation} of hardware.accumulation" if accumulation > 1 else ""
        raise InputError(
            f"training.batch_size: found {batch_size}; allowed: a multiple of {mesh.size * accumulation}, "
            f"for {mesh.size} devices{times}; or use fewer with hardware.local_devices"
        )


def check_devices(config: HardwareConfig, *, batch_size: int) -> None:
    """Raise InputError if the available devices do not fit the settings; warn of those that stay idle unasked."""
    mesh = make_mesh(config)
    idle = [str(device) for device in jax.devices() if device not in mesh.devices]
    if idle and config.local_devices is None and jax.process_index() == 0:
        warnings.warn(
            f"{', '.join(idle)} stay idle: all processes use as many devices as the one with the fewest", stacklevel=2
        )
    check_divisible(mesh, batch_size=batch_size, accumulation=config.accumulation)


def partition_spec(shape: tuple[int, ...], *, parts: int) -> PartitionSpec:
    """Shard an array along its longest divisible axis; small arrays and vectors are replicated."""
    axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or len(shape) < 2 or np.prod(shape) < MIN_SHARDED_SIZE or not axes:
        return REPLICATED
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, FSDP)


def shardings_of(tree: PyTree, mesh: Mesh) -> PyTree[NamedSharding]:
    """Sharding of each array (or ShapeDtypeStruct) of a tree."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, partition_spec(leaf.shape, parts=mesh.shape[FSDP])), tree)


def jit_sharded(function: Callable[..., T], mesh: Mesh, *inputs: PyTree) -> T:
    """Call `function` jitted with sharded outputs and donated inputs, so that no full copy is materialized."""
    shardings = shardings_of(jax.eval_shape(function, *inputs), mesh)
    return jax.jit(function, out_shardings=shardings, donate_argnums=tuple(range(len(inputs))))(*inputs)


def device_put_tree(tree: T, mesh: Mesh) -> T:
    """Shard a tree of arrays that every process has; arrays that are already on the mesh stay there."""
    return jax.tree.map(_device_put, tree, shardings_of(tree, mesh))


def _device_put(leaf: ArrayLike, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def global_batch(part: T, mesh: Mesh) -> T:
    """The global batch, assembled from each process's part."""
    sharding = NamedSharding(mesh, BATCH_SPEC)
    if sharding.is_fully_addressable:
        return jax.device_put(part, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), part)


def gather(tree: T, mesh: Mesh) -> T:
    """All-gather a tree on the mesh to each process's first device (collective)."""
    if mesh.size == 1:
        return tree
    replicated = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, REPLICATED))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), replicated)
