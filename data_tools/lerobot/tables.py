"""Rows of a LeRobot data set's parquet files: numbers and text of whole files, images a few rows at a time."""

import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from data_tools.lerobot.metadata import Feature
from instructrl.errors import InputError, short_message

LARGEST_COLUMNS = 1 << 32  # bytes of all numbers of a file
ROWS_AT_ONCE = 16  # of images, which a file may repeat at no cost
BROKEN = (pa.ArrowException, OSError, ValueError)


def open_table(path: Path, rows: int) -> pq.ParquetFile:
    """Open a file that should have so many rows.

    Raises:
        InputError: it is missing, damaged, or has another number of rows.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, which the data set's metadata lists; copy it again") from None
    except BROKEN as error:
        raise InputError(f"{path}: cannot be read as parquet ({short_message(error)}); copy it again") from None
    if file.metadata.num_rows != rows:
        found = file.metadata.num_rows
        file.close()
        raise InputError(f"{path}: found {found} rows, but the lengths of its episodes add up to {rows}; copy it again")
    return file


def read_columns(path: Path, rows: int, features: dict[str, Feature]) -> dict[str, Any]:
    """Read columns of a file: arrays [rows ...] of numbers, and lists of text.

    Raises:
        InputError: the file or a column is missing, damaged, or not of the feature's type and shape.
    """
    with open_table(path, rows) as file:
        check_sizes(path, file, rows, features)
        try:
            table = file.read(columns=list(features), use_threads=False)
        except BROKEN as error:
            raise InputError(f"{path}: cannot be read ({short_message(error)}); copy it again") from None
    return {key: column_values(path, key, table.column(key), feature) for key, feature in features.items()}


def check_sizes(path: Path, file: pq.ParquetFile, rows: int, features: dict[str, Feature]) -> None:
    """Raise InputError if a column is missing, or holds more than its feature says: nothing is allocated before."""
    missing = [key for key in features if key not in file.schema_arrow.names]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]}, but meta/info.json lists it; copy it again")
    counts, size = dict.fromkeys(features, 0), 0
    for group in range(file.metadata.num_row_groups):
        found = file.metadata.row_group(group)
        for number in range(found.num_columns):
            column = found.column(number)
            key = file.metadata.schema.column(number).path
            name = next((name for name in features if key == name or key.startswith(f"{name}.")), None)
            if name is not None:
                counts[name] += column.num_values
                size += column.total_uncompressed_size
    for key, feature in features.items():
        expected = rows * math.prod(feature.shape)
        if feature.dtype != "string" and counts[key] != expected:
            raise InputError(f"{path}: {key}: found {counts[key]} numbers, expected {expected}; copy it again")
    size += sum(8 * count for count in counts.values())
    if size > LARGEST_COLUMNS:
        raise InputError(f"{path}: claims {size} bytes of numbers, allowed: {LARGEST_COLUMNS} in a file")


def column_values(path: Path, key: str, column: pa.ChunkedArray, feature: Feature) -> Any:
    """Values of a column: an array [rows ...] of numbers, or a list of text.

    Raises:
        InputError: there are gaps, or values of another type.
    """
    if feature.dtype == "string":
        return column.to_pylist()
    found = f"{path}: {key}: found"
    flat, sizes = column.combine_chunks(), list[int]()
    while is_list(flat.type) and not flat.null_count:
        lengths = np.unique(pc.list_value_length(flat).to_numpy(zero_copy_only=False))
        if len(lengths) > 1:  # whose numbers would move to the rows beside them
            rows = " and ".join(map(str, lengths[[0, -1]]))
            raise InputError(f"{found} rows of {rows} numbers, expected {feature} in each; copy it again")
        sizes += lengths.tolist()
        flat = flat.flatten()
    if flat.null_count:
        raise InputError(f"{found} {column.type} with gaps, expected {feature}; copy it again")
    if not is_kind(flat.type, feature.dtype):  # a fraction would be cut off, and an integer is not what was recorded
        raise InputError(f"{found} {column.type}, expected {feature}; copy it again")
    if len(sizes) > 1 and without_ones(sizes) != without_ones(feature.shape):
        raise InputError(f"{found} rows of {' x '.join(map(str, sizes))} numbers, expected {feature}; copy it again")
    values = flat.to_numpy(zero_copy_only=False)
    try:
        return values.reshape(len(column), *feature.shape)
    except ValueError:
        raise InputError(f"{found} {values.size} numbers, expected {feature} in each row") from None


def is_list(kind: pa.DataType) -> bool:
    """Return True if the values of a column are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_kind(kind: pa.DataType, dtype: str) -> bool:
    """Return True if a column holds numbers as a feature's type says: flags, integers or fractions, of any width."""
    if dtype == "bool":
        return bool(pa.types.is_boolean(kind))
    return bool(pa.types.is_floating(kind) if dtype.startswith("float") else pa.types.is_integer(kind))


def without_ones(shape: Iterable[int]) -> list[int]:
    """A shape without the axes of a single number, which some writers leave out."""
    return [size for size in shape if size != 1]


class ImageReader:
    """Reads the images of a column, fastest if the rows increase."""

    def __init__(self, path: Path, rows: int, key: str, feature: Feature) -> None:
        """Open a file of so many rows.

        Raises:
            InputError: it is missing or damaged, or has no such column.
        """
        self.path, self._key, self._feature = path, key, feature
        self._file = open_table(path, rows)
        if key not in self._file.schema_arrow.names:
            raise InputError(f"{path}: has no column {key}, but meta/info.json lists it; copy it again")
        sizes = [self._file.metadata.row_group(index).num_rows for index in range(self._file.num_row_groups)]
        self._ends = np.cumsum(sizes)
        self._begin, self._values = 0, list[Any]()
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def image(self, row: int) -> np.ndarray:
        """Pixels uint8 [H W 3] of a row.

        Raises:
            InputError: there is no image, it is damaged, or of another size.
        """
        try:
            if not self._values or row < self._begin or row >= self._begin + len(self._values) + 4 * ROWS_AT_ONCE:
                self._seek(row)
            while row >= self._begin + len(self._values):
                self._begin += len(self._values)
                self._values = next(self._batches).column(0).to_pylist()
        except (StopIteration, *BROKEN) as error:
            raise InputError(f"{self.path}: {self._key}: cannot be read ({short_message(error)})") from None
        value = self._values[row - self._begin]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise InputError(f"{self.path}: {self._key}: found no image in row {row}, but perhaps the name of a file")
        return decode(f"{self.path}: {self._key}: row {row}", content, self._feature)

    def _seek(self, row: int) -> None:
        """Go to the row group that holds a row."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        self._begin, self._values = int(self._ends[group - 1]) if group else 0, []
        groups = range(group, len(self._ends))
        self._batches = self._file.iter_batches(ROWS_AT_ONCE, groups, columns=[self._key], use_threads=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def decode(where: str, content: bytes, feature: Feature) -> np.ndarray:
    """Decode a PNG or JPEG to pixels uint8 [H W 3].

    Raises:
        InputError: it is damaged, or of another size than the feature says.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size[::-1] != feature.shape[:2]:
                raise InputError(f"{where}: found {image.width} x {image.height} pixels, expected {feature}")
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:  # whose text has an address in memory
        raise InputError(f"{where}: found no PNG or JPEG; copy it again") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{where}: cannot be decoded ({short_message(error)})") from None
