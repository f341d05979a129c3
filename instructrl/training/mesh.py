"""Devices in a grid of two axes, and where every array lies on it.

    data    each row of devices has its own part of the batch
    fsdp    so has each column; the devices of a row also share out the large matrices among them

An array's place follows from its shape alone, so that the optimizer's state and summed gradients lie like their
parameters. The numbers are those of one device, but for the order in which they are added.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructrl.config import HardwareConfig
from instructrl.errors import InputError

DATA, FSDP = "data", "fsdp"
ROWS = PartitionSpec((DATA, FSDP))  # of a batch, shared out among all devices
EVERYWHERE = PartitionSpec()
T = TypeVar("T")
LEAST = 2**14  # numbers in an array that is worth being shared out


def make_mesh(config: HardwareConfig) -> Mesh:
    """The devices of all processes, those of a process behind one another.

    Raises:
        InputError: there are too few devices, or `fsdp` does not divide their number.
    """
    groups: dict[int, list[Any]] = {}
    for device in sorted(jax.devices(), key=lambda one: (one.process_index, one.id)):
        groups.setdefault(device.process_index, []).append(device)
    wanted = config.local_devices
    fewest = min(map(len, groups.values()))
    if wanted is not None and wanted > fewest:
        raise InputError(f"hardware.local_devices: found {wanted}; allowed: at most {fewest}, or null for all")
    devices = [device for group in groups.values() for device in group[:wanted]]
    if len(devices) % config.fsdp:
        raise InputError(
            f"hardware.fsdp: found {config.fsdp}; allowed: a divisor of the number of devices, {len(devices)}"
        )
    return Mesh(np.array(devices).reshape(-1, config.fsdp), (DATA, FSDP))


def check_share(mesh: Mesh, *, batch_size: int, accumulation: int) -> None:
    """Raise InputError where the sequences of a batch cannot be shared out evenly."""
    if batch_size % (mesh.size * accumulation):
        times = f" x {accumulation} of hardware.accumulation" if accumulation > 1 else ""
        raise InputError(
            f"training.batch_size: found {batch_size}; allowed: a multiple of {mesh.size * accumulation}, "
            f"for {mesh.size} devices{times}; or use fewer with hardware.local_devices"
        )


def check_devices(config: HardwareConfig, *, batch_size: int) -> None:
    """Raise InputError where the devices that there are do not fit the settings."""
    check_share(make_mesh(config), batch_size=batch_size, accumulation=config.accumulation)


def spec_of(shape: tuple[int, ...], *, parts: int) -> PartitionSpec:
    """Which axis of an array is shared out: the longest that can be; none of a small array or a vector."""
    axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or len(shape) < 2 or np.prod(shape) < LEAST or not axes:
        return EVERYWHERE
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, FSDP)


def placement(tree: Any, mesh: Mesh) -> Any:
    """Where each array of a tree (or its description) lies."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, spec_of(leaf.shape, parts=mesh.shape[FSDP])), tree)


def made(make: Callable[..., Any], mesh: Mesh, *given: Any) -> Any:
    """What a function makes of arrays that it gives up, each part of it on its own device from the start."""
    shardings = placement(jax.eval_shape(make, *given), mesh)
    return jax.jit(make, out_shardings=shardings, donate_argnums=tuple(range(len(given))))(*given)


def placed(tree: Any, mesh: Mesh) -> Any:
    """A tree of arrays that every process has, or that lie on the mesh already, where it belongs."""
    return jax.tree.map(_placed, tree, placement(tree, mesh))


def _placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def global_batch(part: T, mesh: Mesh) -> T:
    """The batch of all processes, of which each brings its part."""
    sharding = NamedSharding(mesh, ROWS)
    if sharding.is_fully_addressable:
        return jax.device_put(part, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), part)


def whole(tree: Any, mesh: Mesh) -> Any:
    """A tree on the mesh as each process' own, on its first device; all processes take part."""
    if mesh.size == 1:
        return tree
    everywhere = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, EVERYWHERE))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), everywhere)
