"""Atomic writer of demonstration files: under a temporary name, synced, then renamed.

A file in a bucket is written locally and uploaded when complete.
"""

import contextlib
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from instructrl.data.demonstrations.hdf5_file import Hdf5FileDriver
from instructrl.data.demonstrations.schema import (
    CHECKS,
    UNKNOWN,
    Contents,
    Header,
    attributes,
    check_array,
    check_contents,
    checksum,
    crc32,
    episode_checksums,
    image_field,
    stored_fields,
)
from instructrl.errors import InputError
from instructrl.preemption import defer_signals
from instructrl.storage.atomic import commit
from instructrl.storage.paths import BucketPath, StoragePath, staging_path, storage_path, upload_file
from instructrl.types import Demonstration

GROUPS = ("frames", "keyframes", "episodes")


class Writer:
    """Writes demonstrations one by one; the file is renamed to `path` when the `with` block ends without an error.

    The temporary name is `path` + ".tmp": only one process may write a path at a time (see data_tools.collect).
    `compression` of the pixels is none, lz4 or zstd.
    """

    def __init__(self, path: str | StoragePath, header: Header, *, compression: str = "none") -> None:
        self.path, self.header, self.compression = storage_path(path), header, compression
        self._episodes: list[Contents] = []

    def __enter__(self) -> Self:
        options = compression_options(self.compression)
        with contextlib.ExitStack() as unfinished:  # an interruption leaves no file either
            try:
                self.temporary = staging_path(self.path)
                unfinished.callback(self._remove_temporary)
                self._driver = Hdf5FileDriver(self.temporary)
            except OSError as error:
                raise write_error(self.path, error) from None
            unfinished.callback(self._driver.close)
            with defer_signals():
                # The v110 format has checksums for HDF5's own metadata and efficient indexes for resizable data sets.
                self._file = h5py.File(self._driver, "w", libver=("v110", "v110"))
                unfinished.callback(self._close_file)
                self._begin(options)
            self._opened = unfinished.pop_all()
        return self

    def _begin(self, options: dict[str, Any]) -> None:
        """Create the groups and the data set of images."""
        without_times = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        without_times.set_obj_track_times(False)  # equal demonstrations give equal files
        for group in GROUPS:
            h5py.h5g.create(self._file.id, group.encode(), gcpl=without_times)
        field = image_field(self.header)
        self._images = self._file.create_dataset(
            field.path,
            (0, *field.shape),
            field.dtype,
            maxshape=(None, *field.shape),
            chunks=(1, *field.shape),
            **options,
        )

    def _close_file(self) -> None:
        with defer_signals():
            self._file.close()

    def _remove_temporary(self) -> None:
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)  # already renamed or uploaded on success

    @property
    def count(self) -> int:
        """Number of episodes added so far."""
        return len(self._episodes)

    def check(self, demonstration: Demonstration) -> Contents:
        """Validate the next episode and return its Contents.

        Raises:
            InputError: a field violates the format.
        """
        where = f"{self.path}: demonstration {len(self._episodes)} (seed {demonstration.seed})"
        check_array(f"{where}: images", demonstration.images, image_field(self.header))
        if len(demonstration.images) != len(demonstration.state):
            raise InputError(f"{where}: found {len(demonstration.images)} images for {len(demonstration.state)} states")
        contents = to_contents(demonstration)
        check_contents(where, contents, self.header)
        return contents

    def add(self, demonstration: Demonstration) -> None:
        """Append one episode; the pixels are written at once.

        Raises:
            InputError: a field violates the format, or the file system is full.
        """
        self.append(demonstration, self.check(demonstration))

    def append(self, demonstration: Demonstration, contents: Contents) -> None:
        """Append one episode with the Contents that `check` returned.

        Raises:
            InputError: the file system is full.
        """
        with defer_signals():
            begin = len(self._images)
            self._images.resize(begin + len(demonstration.images), axis=0)
            self._images[begin:] = demonstration.images
        self._check_driver()
        self._episodes.append(contents)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._opened:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        if not self._episodes:
            raise InputError(f"{self.path}: no demonstration to write; add at least one")
        with defer_signals():
            self._write(concatenate(self._episodes))
            self._file.close()
        self._driver.sync()
        self._check_driver()
        if isinstance(self.path, BucketPath):
            upload_file(self.temporary, self.path)
            return
        try:
            commit(self.temporary, self.path)
        except OSError as error:
            raise write_error(self.path, error) from None

    def _write(self, contents: Contents) -> None:
        """Write everything but the images."""
        for name, field in stored_fields(self.header, contents).items():
            self._file[field.path] = getattr(contents, name)
        self._file[CHECKS] = episode_checksums(self.header, contents)
        self._file["sentences"] = fixed_length(contents.text)
        for key, value in attributes(self.header).items():
            self._file.attrs[key] = fixed_length(value)
        self._file.attrs["checksum"] = fixed_length(checksum(self.header, contents))

    def _check_driver(self) -> None:
        if self._driver.error is not None:
            raise write_error(self.path, self._driver.error)


def compression_options(compression: str) -> dict[str, Any]:
    """Return the compression arguments of h5py's create_dataset; reading needs none."""
    if compression == "none":
        return {}
    import hdf5plugin

    return dict({"lz4": hdf5plugin.LZ4, "zstd": hdf5plugin.Zstd}[compression]())


def fixed_length(value: Any) -> Any:
    """Encode text, or a list of texts, as UTF-8 of fixed length; return anything else unchanged.

    HDF5 stores text of variable length in a heap without checksums, and hangs on a damaged heap.
    """
    if isinstance(value, str):
        return np.bytes_(value.encode())
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        encoded = [text.encode() for text in value]
        return np.array(encoded, f"S{max(1, *map(len, encoded))}")
    return value


def write_error(path: StoragePath, error: OSError, *, setting: str = "data.dir") -> InputError:
    """Build the error for a path, from a setting, that cannot be written."""
    return InputError(f"{path}: cannot be written ({error.strerror}); free space there or choose another {setting}")


def to_contents(demonstration: Demonstration) -> Contents:
    """Return the Contents of a file with this one episode."""
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
        rejected_placements=one
        * (UNKNOWN if demonstration.rejected_placements is None else demonstration.rejected_placements),
        text=list(demonstration.instructions),
    )


def concatenate(episodes: list[Contents]) -> Contents:
    """Concatenate several Contents."""
    columns = {name: np.concatenate([getattr(e, name) for e in episodes]) for name in Contents._fields[:-1]}
    for first, count in (("first_frame", "frames"), ("first_keyframe", "keyframes"), ("first_sentence", "sentences")):
        columns[first] = np.cumsum(columns[count]) - columns[count]
    return Contents(**columns, text=[sentence for episode in episodes for sentence in episode.text])
