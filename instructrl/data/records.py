"""The record files of a tensorflow-datasets directory, read without TensorFlow.

The bytes of an array_record file come through tensorflow-datasets' own data source. A TFRecord file, which it leaves
to TensorFlow, is read here: for each record its length, the length's checksum, its bytes and their checksum.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.errors import InputError

INFO = "dataset_info.json"
MASK = 0xA282EAD8  # of a TFRecord's checksums


class Records:
    """The episodes of a split as bytes, in order."""

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        """One record.

        Raises:
            InputError: it is damaged.
        """
        raise NotImplementedError


class Arrays(Records):
    """Array_record files, which keep checksums of their own."""

    def __init__(self, builder: Any, split: str, paths: list[Path], lengths: list[int]) -> None:
        import tensorflow_datasets as tfds
        from array_record.python.array_record_module import ArrayRecordReader

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        for path, length in zip(paths, lengths, strict=True):
            try:
                reader = ArrayRecordReader(str(path))
                found = reader.num_records()
                reader.close()
            except Exception as error:
                raise InputError(f"{path}: damaged ({said(error)}); copy it again") from None
            check_count(path, found, length)
        self._split, self._folder = split, paths[0].parent
        self._source = builder.as_data_source(split=split, deserialize_method=raw)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> bytes:
        try:
            return self._source[index]
        except Exception as error:
            where = f"{self._folder}: {self._split}: record {index}"
            raise InputError(f"{where}: damaged ({said(error)}); copy it again") from None


class Place(NamedTuple):
    """Where a record's bytes are."""

    path: Path
    begin: int
    size: int


class Framed(Records):
    """TFRecord files."""

    def __init__(self, paths: list[Path], lengths: list[int]) -> None:
        self._places: list[Place] = []
        for path, length in zip(paths, lengths, strict=True):
            places = framed(path)
            check_count(path, len(places), length)
            self._places += places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> bytes:
        path, begin, size = self._places[index]
        try:
            with path.open("rb") as file:
                file.seek(begin)
                content, check = file.read(size), file.read(4)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        if len(content) != size or check != masked(content):
            raise InputError(f"{path}: record at byte {begin}: damaged: not what its checksum says; copy it again")
        return content


def framed(path: Path) -> list[Place]:
    """The records of a TFRecord file, of whose bytes only the lengths are read.

    Raises:
        InputError: a length is damaged, or the file ends early.
    """
    places, at, end = [], 0, path.stat().st_size
    try:
        with path.open("rb") as file:
            while at < end:
                file.seek(at)
                head = file.read(12)
                if len(head) < 12 or head[8:] != masked(head[:8]):
                    raise InputError(f"{path}: damaged or no TFRecord: no record at byte {at}; copy it again")
                [size] = struct.unpack("<Q", head[:8])
                at += 12 + size + 4
                if at > end:
                    raise InputError(
                        f"{path}: truncated: its last record ends at byte {at}, the file at {end}; copy it again"
                    )
                places.append(Place(path, at - size - 4, size))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return places


def masked(content: bytes) -> bytes:
    """The checksum of some bytes as a TFRecord file has it: CRC-32C, turned by 15 bits, plus a constant."""
    from google_crc32c import value

    crc = value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def check_count(path: Path, found: int, expected: int) -> None:
    """Raise InputError unless a file holds as many records as it should."""
    if found != expected:
        raise InputError(f"{path}: holds {found} records, {path.parent / INFO} says {expected}; copy both again")


def said(error: Exception) -> str:
    """What an error says, on one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
