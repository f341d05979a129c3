"""Rows of equal size in a flat file, each with a checksum beside it.

    NAME.bin      the rows, one after another
    NAME.crc32    uint32 for each row, written after it

A row is present when its checksum fits. In a new file all is zero, and the checksum of a row of zeros is not: so
a process that dies at any moment, or a damaged byte, leaves rows that are seen to be missing. Rows are
written with write calls and read through a memory map, because a full disk kills a process that writes through one.
"""

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm


@dataclass(frozen=True)
class Rows:
    """Where rows lie, and what one is: `shape` and `dtype`, not empty."""

    path: Path  # NAME.bin
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, without its checksum."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def sizes(self) -> dict[Path, int]:
        """The files and their sizes in bytes."""
        return {self.path: self.count * self.row_bytes, self.path.with_suffix(".crc32"): self.count * 4}

    def remove(self) -> None:
        """Remove the files; maps of them stay as they are.

        Raises:
            OSError: the folder cannot be written.
        """
        for path in self.sizes:
            path.unlink(missing_ok=True)

    def create(self) -> None:
        """New files without rows in place of older ones.

        Raises:
            OSError: the folder cannot be written.
        """
        self.remove()
        for path, size in self.sizes.items():
            with path.open("xb") as file:
                file.truncate(size)

    def exist(self) -> bool:
        """Whether the files are there and have the right sizes."""
        return all(path.is_file() and path.stat().st_size == size for path, size in self.sizes.items())

    def mapped(self) -> np.ndarray:
        """All rows [count, *shape], read-only, read from the disk when they are touched.

        Raises:
            OSError: the file is not there.
        """
        return np.asarray(np.memmap(self.path, self.dtype, "r", shape=(self.count, *self.shape)))

    def missing(self) -> tuple[np.ndarray, int]:
        """Which rows [count] are not present, and how many of them were once written; reads every byte."""
        stored = np.fromfile(self.path.with_suffix(".crc32"), "<u4")
        name, unit = f"checking {self.path.name}", "row"
        found = checksums(tqdm(self.mapped(), desc=name, unit=unit, dynamic_ncols=True, delay=2, disable=None))
        wrong = stored != found
        return wrong, int((wrong & (stored != 0)).sum())

    def write(self, first: int, values: np.ndarray) -> None:
        """Write rows `first`, `first` + 1, ...; their checksums last.

        Raises:
            OSError: the disk is full or fails.
        """
        values = np.ascontiguousarray(values)
        write_at(self.path, first * self.row_bytes, values.reshape(-1).view(np.uint8))
        write_at(self.path.with_suffix(".crc32"), first * 4, checksums(values).view(np.uint8))

    def sync(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: the disk is full or fails.
        """
        for path in self.sizes:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def checksums(rows: Iterable[np.ndarray]) -> np.ndarray:
    """The crc32 of every row (contiguous), little-endian uint32."""
    return np.array([zlib.crc32(row.reshape(-1).view(np.uint8).data) for row in rows], "<u4")


def write_at(path: Path, place: int, data: np.ndarray) -> None:
    """Write all bytes [N] at a place of an existing file."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view, written = data.data, 0
        while written < len(view):
            written += os.pwrite(handle, view[written:], place + written)
    finally:
        os.close(handle)
