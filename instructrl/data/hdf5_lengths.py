"""Lengths that the entries of an HDF5 data set claim, checked before an entry is read.

An entry of any length is stored as a reference of 16 bytes: its length, and where its content is. HDF5 allocates and
clears the claimed length before it finds that the content is shorter.
"""

import itertools
import math
from pathlib import Path

import h5py
import numpy as np

from instructrl.data.hdf5 import MAX_PIECE
from instructrl.errors import InputError
from instructrl.storage.paths import Hdf5Source

REFERENCE = np.dtype([("length", "<u4"), ("place", "V12")])
BLOCK = 1024  # rows that are checked at once in a data set without chunks


class LengthCheck:
    """Check of a data set with entries of any length, each block of them once; of other data sets, nothing."""

    def __init__(self, where: str, dataset: h5py.Dataset, source: Hdf5Source) -> None:
        """`where` names the data set in errors; `source` is what h5py opened."""
        self._where, self._dataset, self._source = where, dataset, source
        base = h5py.check_vlen_dtype(dataset.dtype)
        self._item = base.itemsize if isinstance(base, np.dtype) else 1
        self._rows = 0 if dataset.dtype.kind != "O" else BLOCK if dataset.chunks is None else dataset.chunks[0]
        self._checked: set[int] = set()

    def __call__(self, index: int) -> None:
        """Raise InputError if an entry, or one that is stored beside it, claims more than is read at once."""
        if not self._rows or index // self._rows in self._checked:
            return
        for content in references(self._dataset, index // self._rows, self._source):
            whole = len(content) // REFERENCE.itemsize * REFERENCE.itemsize
            longest = self._item * int(np.frombuffer(content[:whole], REFERENCE)["length"].max(initial=0))
            if longest > MAX_PIECE:
                raise InputError(
                    f"{self._where}: an entry beside {index} claims {longest} bytes; allowed: at most {MAX_PIECE}; "
                    "copy or create it again"
                )
        self._checked.add(index // self._rows)


def references(dataset: h5py.Dataset, block: int, source: Hdf5Source) -> list[bytes]:
    """Return the references of a block of entries."""
    if dataset.chunks is not None:
        others = (range(0, size, step) for size, step in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
        return [chunk(dataset, (block * dataset.chunks[0], *rest)) for rest in itertools.product(*others)]
    begin = dataset.id.get_offset()
    if begin is None:  # never written, or small enough to lie in the header, of at most 64 KB
        return []
    row = REFERENCE.itemsize * math.prod(dataset.shape[1:])
    return [read_bytes(source, begin + block * BLOCK * row, min(BLOCK, len(dataset) - block * BLOCK) * row)]


def read_bytes(source: Hdf5Source, begin: int, size: int) -> bytes:
    """Return a range of a file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            file.seek(begin)
            return file.read(size)
    return source.read_range(begin, begin + size)


def chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> bytes:
    """Return the bytes of a chunk; empty if it was never written."""
    if dataset.id.get_chunk_info_by_coord(offset).byte_offset is None:
        return b""
    mask, content = dataset.id.read_direct_chunk(offset)
    filters = dataset.id.get_create_plist()
    if not filters.get_nfilters():
        return content
    # The same chunk in a file in memory, as plain bytes: HDF5 reverses its filters without following references.
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(dataset.chunks)
    for number in range(filters.get_nfilters()):
        code, flags, values, _ = filters.get_filter(number)
        creation.set_filter(code, flags, values)
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        kind = h5py.h5t.py_create(np.dtype(f"V{REFERENCE.itemsize}"))
        copied = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple(dataset.chunks), creation)
        copied.write_direct_chunk((0,) * len(offset), content, mask)
        return h5py.Dataset(copied)[()].tobytes()
