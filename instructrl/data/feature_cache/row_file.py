"""Fixed-size rows in a flat file, with a checksum for each.

    NAME.bin      the rows, one after another
    NAME.crc32    uint32 for each row, written after it

A row is present if its checksum matches. A new file is all zeros, and the checksum of a row of zeros is not zero: so
rows lost when a process dies, or damaged later, are detected as missing. Rows are written with write calls and read
through a memory map, because a full file system kills a process that writes through one.
"""

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from instructrl.storage.atomic import sync


@dataclass(frozen=True)
class RowFile:
    """Path, number, `shape` (not empty) and `dtype` of rows."""

    path: Path  # NAME.bin
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes, without its checksum."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def sizes(self) -> dict[Path, int]:
        """The files and their sizes in bytes."""
        return {self.path: self.count * self.row_bytes, self.path.with_suffix(".crc32"): self.count * 4}

    def remove(self) -> None:
        """Remove the files; existing memory maps stay valid.

        Raises:
            OSError: the folder cannot be written.
        """
        for path in self.sizes:
            path.unlink(missing_ok=True)

    def create(self) -> None:
        """Create new files without rows, replacing older ones.

        Raises:
            OSError: the folder cannot be written.
        """
        self.remove()
        for path, size in self.sizes.items():
            with path.open("xb") as file:
                file.truncate(size)

    def exists(self) -> bool:
        """Return True if the files exist and have the right sizes."""
        return all(path.is_file() and path.stat().st_size == size for path, size in self.sizes.items())

    def memmap(self) -> np.ndarray:
        """Return all rows [count, *shape] as a read-only memory map.

        Raises:
            OSError: the file does not exist.
        """
        return np.asarray(np.memmap(self.path, self.dtype, "r", shape=(self.count, *self.shape)))

    def find_missing(self) -> tuple[np.ndarray, int]:
        """Return a mask [count] of missing rows, and how many of them had been written; reads every byte."""
        stored = np.fromfile(self.path.with_suffix(".crc32"), "<u4")
        name, unit = f"checking {self.path.name}", "row"
        found = checksums(tqdm(self.memmap(), desc=name, unit=unit, dynamic_ncols=True, delay=2, disable=None))
        wrong = stored != found
        return wrong, int((wrong & (stored != 0)).sum())

    def lacks(self, part: slice) -> bool:
        """Return True if any row of a part is missing; reads the others only if every one was written."""
        stored = np.fromfile(self.path.with_suffix(".crc32"), "<u4", part.stop - part.start, offset=4 * part.start)
        return not stored.all() or bool((stored != checksums(self.memmap()[part])).any())

    def write(self, first: int, values: np.ndarray) -> None:
        """Write rows `first`, `first` + 1, ...; their checksums last.

        Raises:
            OSError: the file system is full or fails.
        """
        values = np.ascontiguousarray(values)
        write_at(self.path, first * self.row_bytes, values.reshape(-1).view(np.uint8))
        write_at(self.path.with_suffix(".crc32"), first * 4, checksums(values).view(np.uint8))

    def sync(self) -> None:
        """Sync the files to disk.

        Raises:
            OSError: the file system is full or fails.
        """
        for path in self.sizes:
            sync(path)


def checksums(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Return the CRC-32 of every row (contiguous), little-endian uint32."""
    return np.array([zlib.crc32(row.reshape(-1).view(np.uint8).data) for row in rows], "<u4")


def write_at(path: Path, offset: int, data: np.ndarray) -> None:
    """Write all bytes [N] at an offset of an existing file."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view, written = data.data, 0
        while written < len(view):
            written += os.pwrite(handle, view[written:], offset + written)
    finally:
        os.close(handle)
