"""Cached features in the memory of the devices, sharded over the mesh, from which batches are gathered by row.

Rows are kept as 32-bit words: moving integers changes no bit, and sums of integers and zeros are exact, so that a batch
has the bytes of one that is read from the files.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, UInt32

from instructrl.config.training import HardwareConfig
from instructrl.data.feature_cache.cache import FeatureCache, first_rows
from instructrl.data.feature_cache.row_file import RowFile
from instructrl.data.loading.loader import FeatureRows, Loader, prefetch
from instructrl.training.distributed.mesh import BATCH_SPEC, DATA, FSDP, global_batch
from instructrl.types import Batch, Features

AXES = (DATA, FSDP)  # rows are split among all devices, as batches are
WORD = 4  # bytes
MAX_SHARE = (
    0.25  # of a device's free memory that features may take unasked; activations, which come later, need the rest
)
CHUNK_BYTES = 2**28  # moved to a device at a time


class ResidentFeatures:
    """The features of all files of a training, on the devices of a mesh."""

    def __init__(self, caches: Sequence[FeatureCache], mesh: Mesh) -> None:
        """Copy the features to the devices (every process to its own)."""
        self._sizes, self._cameras, self._mesh = caches[0].sizes, caches[0].layout.cameras, mesh
        names = list(caches[0].rows)
        self._tables = {name: load_table([cache.rows[name] for cache in caches], mesh) for name in names}
        self._firsts = dict(zip([cache.folder for cache in caches], first_rows(caches), strict=True))
        placed = NamedSharding(mesh, BATCH_SPEC)
        self._gather = jax.jit(partial(self._features, shared=mesh.size > 1), out_shardings=placed)

    @property
    def nbytes(self) -> int:
        """Bytes on all devices."""
        return sum(table.nbytes for table in self._tables.values())

    def batches(self, loader: Loader, start: int, stop: int, *, depth: int) -> Generator[Batch]:
        """Yield a loader's batches on the devices; those without features are prepared ahead, as by `prefetch`."""

        def put(part: tuple[Batch, FeatureRows]) -> tuple[Batch, FeatureRows]:
            return global_batch((part[0], self._global_rows(loader, part[1])), self._mesh)

        with closing(prefetch(WithoutFeatures(loader), start, stop, depth=depth, put=put)) as prepared:
            for batch, rows in prepared:  # not in the other thread: devices must gather and step in one order
                yield batch._replace(features=self._gather(self._tables, rows))

    def _global_rows(self, loader: Loader, rows: FeatureRows) -> FeatureRows:
        """The rows of a loader's batch, counted through all files."""
        cache = loader.files[0].features
        assert cache is not None
        firsts = self._firsts[cache.folder]
        return FeatureRows(
            *(np.where(part < 0, part, part + np.int32(first)) for part, first in zip(rows, firsts, strict=True))
        )

    def _features(self, tables: dict[str, Array], rows: FeatureRows, *, shared: bool) -> Features:
        sizes, take = self._sizes, take_rows
        if shared:
            take = jax.shard_map(
                take_shared_rows,
                mesh=self._mesh,
                in_specs=(PartitionSpec(AXES), BATCH_SPEC),
                out_specs=BATCH_SPEC,
                check_vma=False,
            )

        def read(name: str, indices: Int32[Array, "*N"], *shape: int) -> Array:
            words = take(tables[name], indices)
            values = jax.lax.bitcast_convert_type(words, sizes.numpy_dtype)
            flat = values.reshape(*indices.shape, -1)[..., : int(np.prod(shape))]
            return flat.reshape(*indices.shape, *shape)

        pooled = read("pooled", rows.views, self._cameras, sizes.pooled)
        patches = None if sizes.patches is None else read("patches", rows.views, self._cameras, *sizes.patches)
        if "text" in tables:
            return Features(pooled, read("text", rows.texts, sizes.text), patches)
        return Features(pooled, jnp.zeros((len(rows.texts), sizes.text), pooled.dtype), patches)


@dataclass(frozen=True)
class WithoutFeatures:
    """The batches of a loader without features, with the rows of these."""

    loader: Loader

    def batch(self, step: int) -> tuple[Batch, FeatureRows]:
        """Return the batch of a step."""
        return self.loader.batch_without_features(step)


def take_rows(table: UInt32[Array, "R W"], indices: Int32[Array, "*N"]) -> UInt32[Array, "*N W"]:
    """The rows of a table; zeros for indices outside of it."""
    exist = (indices >= 0) & (indices < len(table))
    return jnp.where(exist[..., None], table[jnp.where(exist, indices, 0)], 0)


def take_shared_rows(table: UInt32[Array, "R W"], indices: Int32[Array, "B *N"]) -> UInt32[Array, "B *N W"]:  # noqa: F821
    """A device's share of a batch's rows, from a table of which each device has its part."""
    first = jax.lax.axis_index(AXES) * len(table)
    everywhere = jax.lax.all_gather(indices, AXES, tiled=True)
    own = take_rows(table, jnp.where(everywhere < first, -1, everywhere - first))
    return jax.lax.psum_scatter(own, AXES, tiled=True)


def load_table(files: Sequence[RowFile], mesh: Mesh) -> UInt32[Array, "R W"]:
    """The rows of files one after another, as words, split among the devices."""
    count, words = sum(file.count for file in files), row_words(files[0])
    part = -(-count // mesh.size)
    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    shards = []
    for device, index in sharding.addressable_devices_indices_map((part * mesh.size, words)).items():
        begin = (index or (slice(0),))[0].start or 0
        shards.append(load_shard(files, begin, min(begin + part, count), length=part, device=device))
    return jax.make_array_from_single_device_arrays((part * mesh.size, words), sharding, shards)


def load_shard(files: Sequence[RowFile], begin: int, end: int, *, length: int, device: jax.Device) -> Array:
    """Rows `begin` to `end` on a device, followed by zeros up to `length` rows."""
    words = row_words(files[0])
    write = jax.jit(lambda table, rows, at: jax.lax.dynamic_update_slice(table, rows, (at, 0)), donate_argnums=0)
    with jax.default_device(device):
        table = jnp.zeros((length, words), jnp.uint32)
    table, at = jax.device_put(table, device), 0
    for rows in chunks(files, begin, end):
        table = write(table, jax.device_put(rows, device), np.int32(at))
        at += len(rows)
    return table


def chunks(files: Sequence[RowFile], begin: int, end: int) -> Iterator[UInt32[np.ndarray, "N W"]]:
    """Rows `begin` to `end`, counted through all files, as words, some at a time."""
    first, step = 0, max(1, CHUNK_BYTES // (WORD * row_words(files[0])))
    for file in files:
        start, stop = max(begin - first, 0), min(end - first, file.count)
        rows = file.memmap().reshape(file.count, -1) if stop > start else None
        for position in range(start, stop, step):
            assert rows is not None
            part = rows[position : min(position + step, stop)].view(np.uint8)
            padded = np.zeros((len(part), WORD * row_words(file)), np.uint8)
            padded[:, : part.shape[1]] = part
            yield padded.view(np.uint32)
        first += file.count


def row_words(file: RowFile) -> int:
    """The words of a row, the last of which may be partly unused."""
    return -(-file.row_bytes // WORD)


def resident_features(config: HardwareConfig, caches: Sequence[FeatureCache], mesh: Mesh) -> ResidentFeatures | None:
    """The features on the devices if `hardware.feature_cache` says so, else None: they are read ahead."""
    if config.feature_cache == "files":
        return None
    if config.feature_cache == "auto" and not fits(caches, mesh):
        return None
    return ResidentFeatures(caches, mesh)


def fits(caches: Sequence[FeatureCache], mesh: Mesh) -> bool:
    """Return True if every device has room for its share; False where jax does not know, as on CPUs. Collective."""
    needed = sum(file.count * row_words(file) * WORD for cache in caches for file in cache.rows.values()) / mesh.size
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    free = min((one.get("bytes_limit", 0) - one.get("bytes_in_use", 0) for one in stats), default=0)
    return bool(np.all(multihost_utils.process_allgather(np.array(needed <= MAX_SHARE * free))))
