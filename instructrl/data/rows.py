"""Rows of equal size in a flat file, each with a checksum beside it.

    NAME.bin      the rows, one after another
    NAME.crc32    uint32 for each row, written after it

A row is present when its checksum fits. In a new file all is zero, and the checksum of a row of zeros is not: so
a process that dies at any moment, or a damaged byte, leaves rows that are seen to be missing. Rows are
written with write calls and read through a memory map, because a full disk kills a process that writes through one.
"""

import errno
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

CHUNK = 8 << 20  # bytes that are checked at once
CHECKERS = min(8, os.cpu_count() or 1)  # threads; both reading and zlib.crc32 let others run


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

    def missing(self) -> tuple[np.ndarray, int]:
        """Which rows [count] are not present, and how many of them were once written; reads every byte.

        Raises:
            OSError: the files cannot be read, or are shorter than they should be.
        """
        stored = np.frombuffer(read_at(self.path.with_suffix(".crc32"), 0, self.count * 4), "<u4")
        wrong = stored != np.concatenate([np.empty(0, "<u4"), *self._checksums()])
        return wrong, int((wrong & (stored != 0)).sum())

    def _checksums(self) -> Iterator[np.ndarray]:
        """The checksums of the rows as they are now, a chunk at a time."""
        size, step = self.row_bytes, max(1, CHUNK // self.row_bytes)

        def read(first: int) -> np.ndarray:
            return checksums(read_at(self.path, first * size, min(step, self.count - first) * size), size)

        bar = tqdm(
            total=self.count, desc=f"checking {self.path.name}", unit="row", dynamic_ncols=True, delay=2, disable=None
        )
        with bar, ThreadPoolExecutor(CHECKERS, thread_name_prefix="checking") as threads:
            for part in threads.map(read, range(0, self.count, step)):
                bar.update(len(part))
                yield part

    def write(self, first: int, values: np.ndarray) -> None:
        """Write rows `first`, `first` + 1, ...; their checksums last.

        Raises:
            OSError: the disk is full or fails.
        """
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        write_at(self.path, first * self.row_bytes, data)
        write_at(self.path.with_suffix(".crc32"), first * 4, checksums(data, self.row_bytes).view(np.uint8).data)

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


class MappedRows:
    """Rows read through a memory map. The checksum of each is compared when it is first read.

    Safe to share between threads.
    """

    def __init__(self, rows: Rows) -> None:
        """Map the files.

        Raises:
            OSError: they are not there.
            ValueError: they are shorter than they should be.
        """
        self._size, shape = rows.row_bytes, (rows.count, *rows.shape)
        self._values = np.asarray(np.memmap(rows.path, rows.dtype, "r", shape=shape))
        self._stored = np.asarray(np.memmap(rows.path.with_suffix(".crc32"), "<u4", "r", shape=(rows.count,)))
        self._seen = np.zeros(rows.count, bool)

    def read(self, part: slice) -> np.ndarray | None:
        """Rows of the map, which is read-only; None if one of them is damaged."""
        values = self._values[part]
        if not self._seen[part].all():
            found = checksums(values.reshape(-1).view(np.uint8).data, self._size)
            if (found != self._stored[part]).any():
                return None
            self._seen[part] = True
        return values


def checksums(data: bytes | memoryview, size: int) -> np.ndarray:
    """The crc32 of every `size` bytes, little-endian uint32."""
    view = memoryview(data)
    return np.array([zlib.crc32(view[place : place + size]) for place in range(0, len(view), size)], "<u4")


def read_at(path: Path, place: int, size: int) -> bytes:
    """So many bytes from a place of a file.

    Raises:
        OSError: the file cannot be read, or ends before.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, missing = [], size
        while missing:
            parts.append(os.pread(handle, missing, place + size - missing))
            missing -= len(parts[-1])
            if not parts[-1]:
                raise OSError(errno.EIO, "the file ends too early", str(path))
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(handle)


def write_at(path: Path, place: int, data: memoryview) -> None:
    """Write all bytes at a place of an existing file."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(handle, data[written:], place + written)
    finally:
        os.close(handle)
