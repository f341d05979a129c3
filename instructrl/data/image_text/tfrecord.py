"""Readers for the record files of a tensorflow-datasets directory, without TensorFlow.

An array_record file is read through tensorflow-datasets' own data source. A TFRecord file, for which that needs
TensorFlow, is parsed here: for each record its length, the length's checksum, its bytes and their checksum.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.errors import InputError, short_message

INFO = "dataset_info.json"
MASK = 0xA282EAD8  # constant in the masked checksums of TFRecord


class Records:
    """Serialized records of a split, in order."""

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        """Return one record.

        Raises:
            InputError: the record is damaged.
        """
        raise NotImplementedError


class ArrayRecords(Records):
    """Records in array_record files, which have checksums of their own."""

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
                raise InputError(f"{path}: damaged ({short_message(error)}); copy it again") from None
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
            raise InputError(f"{where}: damaged ({short_message(error)}); copy it again") from None


class RecordSpan(NamedTuple):
    """File, offset and size of the bytes of a record."""

    path: Path
    begin: int
    size: int


class TFRecords(Records):
    """Records in TFRecord files."""

    def __init__(self, paths: list[Path], lengths: list[int]) -> None:
        self._spans: list[RecordSpan] = []
        for path, length in zip(paths, lengths, strict=True):
            spans = index_tfrecord(path)
            check_count(path, len(spans), length)
            self._spans += spans

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, index: int) -> bytes:
        path, begin, size = self._spans[index]
        try:
            with path.open("rb") as file:
                file.seek(begin)
                content, check = file.read(size), file.read(4)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        if len(content) != size or check != masked_crc32c(content):
            raise InputError(f"{path}: record at byte {begin}: damaged: its checksum does not match; copy it again")
        return content


def index_tfrecord(path: Path) -> list[RecordSpan]:
    """Return the spans of all records of a TFRecord file, reading only their lengths.

    Raises:
        InputError: a length is damaged, or the file is truncated.
    """
    spans, at, end = [], 0, path.stat().st_size
    try:
        with path.open("rb") as file:
            while at < end:
                file.seek(at)
                head = file.read(12)
                if len(head) < 12 or head[8:] != masked_crc32c(head[:8]):
                    raise InputError(f"{path}: damaged or not a TFRecord file: no record at byte {at}; copy it again")
                [size] = struct.unpack("<Q", head[:8])
                at += 12 + size + 4
                if at > end:
                    raise InputError(
                        f"{path}: truncated: its last record ends at byte {at}, the file at {end}; copy it again"
                    )
                spans.append(RecordSpan(path, at - size - 4, size))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return spans


def masked_crc32c(content: bytes) -> bytes:
    """Return the masked checksum of TFRecord: CRC-32C, rotated right by 15 bits, plus a constant."""
    from google_crc32c import value

    crc = value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def check_count(path: Path, found: int, expected: int) -> None:
    """Raise InputError unless a file holds the expected number of records."""
    if found != expected:
        raise InputError(f"{path}: holds {found} records, {path.parent / INFO} says {expected}; copy both again")
