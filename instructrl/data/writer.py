"""Writing a file of demonstrations: under a temporary name, synced, then renamed, so that no half file is ever seen.

One in a bucket is written on the disk, and sent when it is whole.
"""

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from instructrl.batch import Demonstration
from instructrl.data.format import (
    CHECKS,
    Contents,
    Header,
    attributes,
    check_array,
    check_contents,
    checks,
    checksum,
    crc32,
    fields,
    image_field,
)
from instructrl.data.sink import Sink
from instructrl.data.storage import BucketPath, Place, place, send, staging
from instructrl.errors import InputError

GROUPS = ("frames", "keyframes", "episodes")


class Writer:
    """Takes demonstrations one by one; the file takes its place when the `with` block ends without an error.

    The temporary name is `path` + ".tmp": only one process may write a path at a time (see data_tools.collect).
    `compression` of the pixels is none, lz4 or zstd.
    """

    def __init__(self, path: str | Place, header: Header, *, compression: str = "none") -> None:
        self.path, self.header, self.compression = place(path), header, compression
        self._episodes: list[Contents] = []

    def __enter__(self) -> Self:
        try:
            self.temporary = staging(self.path)
            self._sink = Sink(self.temporary)
        except OSError as error:
            raise unwritable(self.path, error) from None
        # The v110 layout checksums HDF5's own metadata and indexes growing data sets well.
        self._file = h5py.File(self._sink, "w", libver=("v110", "v110"))
        timeless = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        timeless.set_obj_track_times(False)  # so that equal demonstrations give equal files
        for group in GROUPS:
            h5py.h5g.create(self._file.id, group.encode(), gcpl=timeless)
        field = image_field(self.header)
        self._images = self._file.create_dataset(
            field.path,
            (0, *field.shape),
            field.dtype,
            maxshape=(None, *field.shape),
            chunks=(1, *field.shape),
            **filters(self.compression),
        )
        return self

    @property
    def count(self) -> int:
        """Episodes given so far."""
        return len(self._episodes)

    def check(self, demonstration: Demonstration) -> Contents:
        """The next episode as the file would hold it.

        Raises:
            InputError: a field is not as the format demands.
        """
        where = f"{self.path}: demonstration {len(self._episodes)} (seed {demonstration.seed})"
        check_array(f"{where}: images", demonstration.images, image_field(self.header))
        if len(demonstration.images) != len(demonstration.state):
            raise InputError(f"{where}: found {len(demonstration.images)} images for {len(demonstration.state)} states")
        contents = contents_of(demonstration)
        check_contents(where, contents, self.header)
        return contents

    def add(self, demonstration: Demonstration) -> None:
        """Append one episode; the pixels go to disk at once.

        Raises:
            InputError: a field is not as the format demands, or the disk is full.
        """
        self.append(demonstration, self.check(demonstration))

    def append(self, demonstration: Demonstration, contents: Contents) -> None:
        """Append one episode with the contents that `check` made of it.

        Raises:
            InputError: the disk is full.
        """
        begin = len(self._images)
        self._images.resize(begin + len(demonstration.images), axis=0)
        self._images[begin:] = demonstration.images
        self._check_sink()
        self._episodes.append(contents)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._sink.close()
            with contextlib.suppress(OSError):
                self.temporary.unlink(missing_ok=True)  # gone already if all went well

    def _finish(self) -> None:
        if not self._episodes:
            raise InputError(f"{self.path}: no demonstration was given to write; give at least one")
        contents = concatenate(self._episodes)
        for name, field in fields(self.header).items():
            self._file[field.path] = getattr(contents, name)
        self._file[CHECKS] = checks(self.header, contents)
        self._file["sentences"] = fixed_length(contents.text)
        for key, value in attributes(self.header).items():
            self._file.attrs[key] = fixed_length(value)
        self._file.attrs["checksum"] = fixed_length(checksum(self.header, contents))
        self._file.close()
        self._sink.sync()
        self._check_sink()
        if isinstance(self.path, BucketPath):
            send(self.temporary, self.path)
            return
        try:
            self.temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def _check_sink(self) -> None:
        if self._sink.error is not None:
            raise unwritable(self.path, self._sink.error)


def filters(compression: str) -> dict[str, Any]:
    """How h5py is told to compress; every file's pixels are read without being told."""
    if compression == "none":
        return {}
    import hdf5plugin

    return dict({"lz4": hdf5plugin.LZ4, "zstd": hdf5plugin.Zstd}[compression]())


def fixed_length(value: Any) -> Any:
    """Text, or a list of texts, as UTF-8 of fixed length; anything else as it is.

    HDF5 keeps text of any length in a heap without checksums, and a damaged heap makes it hang.
    """
    if isinstance(value, str):
        return np.bytes_(value.encode())
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        encoded = [text.encode() for text in value]
        return np.array(encoded, f"S{max(1, *map(len, encoded))}")
    return value


def unwritable(path: Place, error: OSError, *, setting: str = "data.dir") -> InputError:
    """One line for what the operating system says while writing where a setting says."""
    return InputError(f"{path}: cannot be written ({error.strerror}); free space there or choose another {setting}")


def sync_folder(path: Path) -> None:
    """Make a folder's new entries survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def contents_of(demonstration: Demonstration) -> Contents:
    """The Contents of a file with this one episode."""
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    return Contents(
        state=demonstration.state,
        intrinsics=demonstration.intrinsics,
        extrinsics=demonstration.extrinsics,
        crc32=np.array([crc32(np.ascontiguousarray(frame)) for frame in demonstration.images], np.uint32),
        keyframe=demonstration.keyframes,
        action=demonstration.actions,
        first_frame=zero,
        frames=one * len(demonstration.state),
        first_keyframe=zero,
        keyframes=one * len(demonstration.keyframes),
        first_sentence=zero,
        sentences=one * len(demonstration.instructions),
        variation=one * demonstration.variation,
        seed=one * demonstration.seed,
        text=list(demonstration.instructions),
    )


def concatenate(episodes: list[Contents]) -> Contents:
    """Several Contents behind one another."""
    columns = {name: np.concatenate([getattr(e, name) for e in episodes]) for name in Contents._fields[:-1]}
    for first, count in (("first_frame", "frames"), ("first_keyframe", "keyframes"), ("first_sentence", "sentences")):
        columns[first] = np.cumsum(columns[count]) - columns[count]
    return Contents(**columns, text=[sentence for episode in episodes for sentence in episode.text])
