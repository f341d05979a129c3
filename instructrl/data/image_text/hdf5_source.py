"""HDF5 files of image-text pairs, in M3AE's layout: `jpg` and `caption`, or one of them, or `text` alone.

An entry of `jpg` is an encoded image (uint8, of any length); one of `caption` or `text` is UTF-8, as a string or bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from instructrl.data.hdf5 import READ_ERRORS, check_stored, open_hdf5
from instructrl.data.hdf5_chunks import ChunkCheck
from instructrl.data.hdf5_lengths import LengthCheck
from instructrl.errors import InputError, short_message
from instructrl.storage.atomic import atomic_path
from instructrl.storage.paths import Hdf5Source, StoragePath, open_source, read_error

IMAGE, TEXTS = "jpg", ("caption", "text")
PROBED = 64  # number of entries that a checksum reads


class PairFile:
    """An open HDF5 file of image-text pairs.

    Attributes:
        path: name for error messages.
        attributes: the file's attributes, as text.
    """

    def __init__(self, path: str, file: h5py.File, source: Hdf5Source) -> None:
        """Raise InputError unless the file, opened from `source`, has the right arrays, of equal length."""
        self.path = path
        arrays = {name: file[name] for name in (IMAGE, *TEXTS) if isinstance(file.get(name), h5py.Dataset)}
        self._chunks = {array: ChunkCheck(f"{path}: {array.name}", array) for array in arrays.values()}
        self._lengths = {array: LengthCheck(f"{path}: {array.name}", array, source) for array in arrays.values()}
        self._images = arrays.get(IMAGE)
        self._texts = next((arrays[name] for name in TEXTS if name in arrays), None)
        if not arrays:
            raise InputError(
                f"{path}: found {', '.join(sorted(file)) or 'nothing'}; allowed: jpg and caption, jpg alone, caption "
                "or text alone (M3AE's layout); python -m data_tools.frames writes such files"
            )
        for name, array in arrays.items():
            if array.ndim != 1:
                raise InputError(f"{path}: {name}: found shape {array.shape}; allowed: one dimension of entries")
            check_stored(f"{path}: {name}", array)
        if self._images is not None and h5py.check_vlen_dtype(self._images.dtype) != np.dtype(np.uint8):
            raise InputError(f"{path}: {IMAGE}: found {self._images.dtype}; allowed: uint8 arrays of any length")
        if self._texts is not None and not is_text(self._texts.dtype):
            name, dtype = self._texts.name, self._texts.dtype
            raise InputError(f"{path}: {name}: found {dtype}; allowed: strings, or uint8 arrays of any length")
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{path}: arrays of unequal length: {lengths}; copy or create it again")
        self._length = next(iter(lengths.values()))
        self.attributes = {name: str(value) for name, value in sorted(file.attrs.items())}

    def __len__(self) -> int:
        return self._length

    @property
    def has_images(self) -> bool:
        return self._images is not None

    @property
    def has_texts(self) -> bool:
        return self._texts is not None

    def image(self, index: int) -> bytes | None:
        """Return an encoded image.

        Raises:
            InputError: the file is damaged.
        """
        return None if self._images is None else self._entry(self._images, index).tobytes()

    def text(self, index: int, draw: int = 0) -> str | None:
        """Return a caption; invalid UTF-8 is replaced.

        Raises:
            InputError: the file is damaged.
        """
        if self._texts is None:
            return None
        found = self._entry(self._texts, index)
        content = found if isinstance(found, bytes) else found.encode() if isinstance(found, str) else found.tobytes()
        return content.decode(errors="replace").rstrip("\0")

    def _entry(self, array: h5py.Dataset, index: int) -> Any:
        try:
            self._chunks[array](index, index + 1)
            self._lengths[array](index)
            return array[index]
        except READ_ERRORS as error:
            raise InputError(
                f"{self.path}: {array.name}: entry {index}: damaged ({short_message(error)}); copy or create it again"
            ) from None

    def checksum(self) -> str:
        """Return a digest of sizes, attributes and 64 evenly spaced entries."""
        shapes = [self._length, self.has_images, self.has_texts, self.attributes]
        digest = hashlib.sha256(json.dumps(shapes).encode())
        for index in probe_indices(self._length):
            digest.update(self.image(index) or b"")
            digest.update((self.text(index) or "").encode())
        return digest.hexdigest()


def is_text(dtype: np.dtype) -> bool:
    """Return True for strings, and for bytes of any length."""
    return h5py.check_string_dtype(dtype) is not None or h5py.check_vlen_dtype(dtype) == np.dtype(np.uint8)


def probe_indices(length: int) -> list[int]:
    """Return evenly spaced indices of a set."""
    return sorted({index * length // PROBED for index in range(PROBED)}) if length else []


@contextmanager
def open_pair_file(path: StoragePath) -> Iterator[PairFile]:
    """Open a file of image-text pairs, local or in a bucket.

    Raises:
        InputError: the file is missing, not HDF5, damaged, or of another layout.
        RunError: object storage keeps failing.
    """
    if isinstance(path, Path) and (path.is_dir() or not path.exists()):
        raise InputError(f"{path}: no such file; name an HDF5 file with jpg and caption, or a folder with such files")
    with open_source(path) as source:
        try:
            file = open_hdf5(source, path)
        except (OSError, ValueError) as error:
            raise read_error(source) or InputError(
                f"{path}: not an HDF5 file, or damaged ({short_message(error)}); copy or create it again"
            ) from None
        with file:
            try:
                yield open_arrays(str(path), file, source)
            except InputError as error:
                raise read_error(source) or error from None


def open_arrays(path: str, file: h5py.File, source: Hdf5Source) -> PairFile:
    """Return the arrays of an open file; any error of HDF5 becomes an InputError."""
    try:
        return PairFile(path, file, source)
    except READ_ERRORS as error:
        raise InputError(f"{path}: damaged ({short_message(error)}); copy or create it again") from None


def write_pairs(path: Path, pairs: Iterable[tuple[bytes, str]], attributes: Mapping[str, Any]) -> int:
    """Write encoded images with their captions atomically; return the number of pairs.

    Equal contents give equal bytes.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_path(path, exclusive=True) as temporary,
            h5py.File(temporary, "w", libver=("v110", "v110")) as file,
        ):
            count = _write_arrays(file, pairs)
            file.attrs.update(attributes)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({short_message(error)}); choose another folder") from None
    return count


def _write_bytes(array: h5py.Dataset, begin: int, contents: Sequence[bytes]) -> None:
    """Write byte strings into an array of them, from an index on.

    By h5py's low-level interface: its other one fails for several byte strings of the same length, which it stacks.
    """
    rows = np.empty(len(contents), array.dtype)
    for row, content in enumerate(contents):
        rows[row] = np.frombuffer(content, np.uint8)
    place = array.id.get_space()
    place.select_hyperslab((begin,), rows.shape)
    array.id.write(h5py.h5s.create_simple(rows.shape), place, rows, h5py.h5t.py_create(array.dtype))


def _write_arrays(file: h5py.File, pairs: Iterable[tuple[bytes, str]]) -> int:
    """Write both arrays, one chunk at a time."""
    chunk = 1024
    dtypes = {IMAGE: h5py.vlen_dtype(np.uint8), TEXTS[0]: h5py.string_dtype()}
    arrays = {
        name: file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(chunk,), track_times=False)
        for name, dtype in dtypes.items()
    }
    buffer: list[tuple[bytes, str]] = []

    def flush() -> None:
        begin, end = len(arrays[IMAGE]), len(arrays[IMAGE]) + len(buffer)
        for array in arrays.values():
            array.resize((end,))
        _write_bytes(arrays[IMAGE], begin, [image for image, _ in buffer])
        arrays[TEXTS[0]][begin:end] = [text for _, text in buffer]
        buffer.clear()

    for pair in pairs:
        buffer.append(pair)
        if len(buffer) == chunk:
            flush()
    if buffer:
        flush()
    return len(arrays[IMAGE])
