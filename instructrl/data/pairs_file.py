"""HDF5 files of pictures and captions, in M3AE's layout: `jpg` and `caption`, or one of them, or `text` alone.

An entry of `jpg` is an encoded picture (uint8, of any length); one of `caption` or `text` is UTF-8, as a string or as
bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from instructrl.data.reader import READ_ERRORS, reason
from instructrl.data.storage import Place, failure, readable
from instructrl.errors import InputError

IMAGE, TEXTS = "jpg", ("caption", "text")
PROBED = 64  # entries that a checksum reads


class PairFile:
    """An open file.

    Attributes:
        path: what errors call it.
        attributes: what it says of itself, as text.
    """

    def __init__(self, path: str, file: h5py.File) -> None:
        """Raises InputError unless it has the right arrays, of equal length."""
        self.path = path
        named = {name: file[name] for name in (IMAGE, *TEXTS) if isinstance(file.get(name), h5py.Dataset)}
        self._images = named.get(IMAGE)
        self._texts = next((named[name] for name in TEXTS if name in named), None)
        if not named:
            raise InputError(
                f"{path}: found {', '.join(sorted(file)) or 'nothing'}; allowed: jpg and caption, jpg alone, caption "
                "or text alone (M3AE's layout); python -m data_tools.frames writes such files"
            )
        for name, array in named.items():
            if array.ndim != 1:
                raise InputError(f"{path}: {name}: found shape {array.shape}; allowed: one dimension of entries")
        if self._images is not None and h5py.check_vlen_dtype(self._images.dtype) != np.dtype(np.uint8):
            raise InputError(f"{path}: {IMAGE}: found {self._images.dtype}; allowed: uint8 arrays of any length")
        lengths = {name: len(array) for name, array in named.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{path}: arrays of unequal length: {lengths}; copy or make it again")
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
        """An encoded picture.

        Raises:
            InputError: the file is damaged.
        """
        return None if self._images is None else self._entry(self._images, index).tobytes()

    def text(self, index: int, draw: int = 0) -> str | None:
        """A caption; what is no UTF-8 in it is replaced.

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
            return array[index]
        except READ_ERRORS as error:
            raise InputError(
                f"{self.path}: {array.name}: entry {index}: damaged ({reason(error)}); copy or make it again"
            ) from None

    def checksum(self) -> str:
        """Of its sizes, attributes and 64 entries spread over it."""
        shapes = [self._length, self.has_images, self.has_texts, self.attributes]
        digest = hashlib.sha256(json.dumps(shapes).encode())
        for index in probed(self._length):
            digest.update(self.image(index) or b"")
            digest.update((self.text(index) or "").encode())
        return digest.hexdigest()


def probed(length: int) -> list[int]:
    """Positions spread evenly over a set."""
    return sorted({index * length // PROBED for index in range(PROBED)}) if length else []


@contextmanager
def opened_pairs(path: Place) -> Iterator[PairFile]:
    """A file of pictures and captions, on the disk or in a bucket.

    Raises:
        InputError: it is missing, no HDF5 file, damaged, or of another layout.
        RunError: its store keeps failing.
    """
    if isinstance(path, Path) and not path.is_file():
        raise InputError(f"{path}: no such file; name an HDF5 file with jpg and caption, or a folder with such files")
    with readable(path) as source:
        try:
            file = h5py.File(source, "r", locking=False)  # files are replaced, never changed: no lock is needed
        except (OSError, ValueError) as error:
            raise failure(source) or InputError(
                f"{path}: no HDF5 file, or damaged ({reason(error)}); copy or make it again"
            ) from None
        with file:
            try:
                yield PairFile(str(path), file)
            except InputError as error:
                raise failure(source) or error from None


def write_pairs(path: Path, pairs: Iterable[tuple[bytes, str]], attributes: Mapping[str, Any]) -> int:
    """Write encoded pictures with their captions; the file takes its place when it is whole. Returns how many.

    Equal contents give equal bytes.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
            count = _fill(file, pairs)
            file.attrs.update(attributes)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({reason(error)}); choose another folder") from None
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _fill(file: h5py.File, pairs: Iterable[tuple[bytes, str]]) -> int:
    """Both arrays, a chunk at a time."""
    chunk = 1024
    kinds = {IMAGE: h5py.vlen_dtype(np.uint8), TEXTS[0]: h5py.string_dtype()}
    arrays = {
        name: file.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(chunk,), track_times=False)
        for name, kind in kinds.items()
    }
    waiting: list[tuple[bytes, str]] = []

    def put() -> None:
        begin, end = len(arrays[IMAGE]), len(arrays[IMAGE]) + len(waiting)
        for array in arrays.values():
            array.resize((end,))
        pictures = np.empty(len(waiting), object)
        pictures[:] = [np.frombuffer(picture, np.uint8) for picture, _ in waiting]
        arrays[IMAGE][begin:end] = pictures
        arrays[TEXTS[0]][begin:end] = [text for _, text in waiting]
        waiting.clear()

    for pair in pairs:
        waiting.append(pair)
        if len(waiting) == chunk:
            put()
    if waiting:
        put()
    return len(arrays[IMAGE])
