"""Sizes of compressed chunks of an HDF5 data set, checked before HDF5 decompresses them.

HDF5 decompresses whatever a chunk holds and compares its size only then: 120 KB of zstd can be 4 GB.
"""

import itertools
import struct
import zlib

import h5py

from instructrl.errors import InputError

GZIP, LZ4, ZSTD = 1, 32004, 32015  # lzf, the other one that is allowed, never exceeds the chunk
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SLACK = 4096  # bytes that other filters, such as checksums, may add to a chunk


class ChunkCheck:
    """Check of a data set with compressed chunks, each of them once; of other data sets, nothing."""

    def __init__(self, where: str, dataset: h5py.Dataset) -> None:
        """`where` names the data set in errors."""
        self._where, self._dataset = where, dataset
        creation = dataset.id.get_create_plist()
        codes = [creation.get_filter(number)[0] for number in range(creation.get_nfilters())]
        self._filter = next((number for number, code in enumerate(codes) if code in (GZIP, LZ4, ZSTD)), -1)
        self._codec = codes[self._filter] if self._filter >= 0 else None
        self._limit = SLACK
        if self._codec is not None:
            size = dataset.id.get_type().get_size()
            for length in dataset.chunks:
                size *= length
            self._limit += size
        self._checked: set[int] = set()

    def __call__(self, begin: int, end: int) -> None:
        """Raise InputError if a chunk with rows from `begin` to `end` is larger than the data set says."""
        if self._codec is None or begin >= end:
            return
        chunks, shape = self._dataset.chunks, self._dataset.shape
        for block in range(begin // chunks[0], (end - 1) // chunks[0] + 1):
            if block in self._checked:
                continue
            others = (range(0, size, step) for size, step in zip(shape[1:], chunks[1:], strict=True))
            for offset in itertools.product((block * chunks[0],), *others):
                self._check(offset)
            self._checked.add(block)

    def _check(self, offset: tuple[int, ...]) -> None:
        found = self._dataset.id.get_chunk_info_by_coord(offset)
        if found.byte_offset is None:  # never written
            return
        if found.size <= self._limit:
            skipped, content = self._dataset.id.read_direct_chunk(offset)
            is_plain = skipped >> self._filter & 1  # it could not be compressed
            size = len(content) if is_plain else decompressed_size(self._codec, content, self._limit)
        else:
            size = found.size
        if size > self._limit:
            raise InputError(
                f"{self._where}: the chunk at {offset} is larger than the {self._limit - SLACK} bytes of its shape; "
                "copy or create it again"
            )


def decompressed_size(codec: int | None, content: bytes, limit: int) -> int:
    """Return the size to which a chunk would be decompressed, or a number above the limit; 0 if it is damaged."""
    if codec == LZ4:
        return int(struct.unpack(">Q", content[:8])[0]) if len(content) >= 8 else 0
    if codec == ZSTD:
        return zstd_size(content, limit)
    try:
        return len(zlib.decompressobj().decompress(content, limit + 1))
    except zlib.error:
        return 0


def zstd_size(content: bytes, limit: int) -> int:
    """Return the content size in the header of a zstd frame (RFC 8878, 3.1.1.1); above the limit if it has none."""
    if content[:4] != ZSTD_MAGIC:  # damaged, or of a version before 0.8
        return limit + 1 if content[1:4] == ZSTD_MAGIC[1:] else 0
    content = content.ljust(18, b"\0")
    descriptor = content[4]
    single = descriptor >> 5 & 1
    begin = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    count = (single, 2, 4, 8)[descriptor >> 6]
    size = int.from_bytes(content[begin : begin + count], "little")
    return size + 256 * (count == 2) if count else limit + 1
