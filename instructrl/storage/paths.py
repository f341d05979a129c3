"""Paths on the file system or in object storage: settings and arguments are parsed into a `StoragePath`.

A `StoragePath` is a `Path`, or a `BucketPath` with the subset of the `Path` interface that InstructRL uses. A file in
a bucket is read through a local copy (see `object_cache`), or, without a cache folder, by range requests (see
`object_store.RangeReader`). It is written to a local file first, uploaded and compared with the store's checksum.
"""

import fnmatch
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from instructrl.config.environment import DataConfig
from instructrl.errors import InputError, RunError
from instructrl.storage import object_store
from instructrl.storage.object_cache import Cache


@dataclass(frozen=True)
class BucketPath:
    """The URL of an object or a prefix in a bucket, and the cache for local copies of its objects."""

    bucket: str  # gs://NAME or s3://NAME
    key: PurePosixPath
    cache: Cache | None = None

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key.name else self.bucket

    def __truediv__(self, name: str) -> "BucketPath":
        return replace(self, key=self.key / name)

    @property
    def name(self) -> str:
        """The last component."""
        return self.key.name

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return self.key.stem

    @property
    def suffix(self) -> str:
        """The suffix, with its dot."""
        return self.key.suffix

    @property
    def parent(self) -> "BucketPath":
        """The parent folder."""
        return replace(self, key=self.key.parent)

    def with_suffix(self, suffix: str) -> "BucketPath":
        """Return the path with another suffix."""
        return replace(self, key=self.key.with_suffix(suffix))

    def exists(self) -> bool:
        """Return True if there is an object of this name."""
        return object_store.stat(str(self)) is not None

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """Yield the objects directly below whose names match the pattern."""
        names = object_store.list_objects(str(self))
        return (self / name for name in sorted(names) if "/" not in name and fnmatch.fnmatchcase(name, pattern))

    def is_dir(self) -> bool:
        """Return True if there are objects below this prefix."""
        return bool(object_store.list_objects(str(self)))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object, if it exists."""
        object_store.remove(str(self))

    def rmdir(self) -> None:
        """Do nothing: object storage has no empty folders."""


StoragePath: TypeAlias = Path | BucketPath
Hdf5Source: TypeAlias = Path | object_store.RangeReader  # opened by h5py


def storage_path(path: str | StoragePath, data: DataConfig | None = None) -> StoragePath:
    """Parse a path or URL from a setting or command line; `data` configures the cache for objects in buckets.

    Raises:
        InputError: a URL without a bucket.
    """
    if isinstance(path, BucketPath):
        return path
    text = str(path)
    if not text.startswith(object_store.SCHEMES):
        return Path(path)
    scheme, _, rest = text.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise InputError(f"{text}: found no bucket; write {scheme}://BUCKET/FOLDER")
    data = data or DataConfig()
    cache = None
    if data.cache_dir is not None:
        cache = Cache(Path(data.cache_dir).expanduser(), int(data.cache_gb * 1e9))
    return BucketPath(f"{scheme}://{bucket}", PurePosixPath(key), cache)


@contextmanager
def open_source(path: StoragePath) -> Iterator[Hdf5Source]:
    """Yield what h5py can open: the file, its local copy, or a file-like object that reads by range requests.

    Raises:
        InputError: there is no such object, or reading it is forbidden.
        RunError: object storage keeps failing.
    """
    if isinstance(path, Path):
        yield path
    elif path.cache is not None:
        with path.cache.copy(str(path)) as copy:
            yield copy
    else:
        found = object_store.stat(str(path))
        if found is None:
            raise object_store.not_found_error(str(path))
        with object_store.RangeReader(str(path), found) as blocks:
            yield blocks


def read_error(source: Hdf5Source | None) -> InputError | RunError | None:
    """Return the error of a read that failed in object storage; None if all reads succeeded.

    It is a copy: a raised error references its stack frames, and through them the HDF5 file that references `source`, a
    reference cycle that Python cannot free. HDF5 would free it after interpreter shutdown: a segmentation fault.
    """
    return copy(source.error) if isinstance(source, object_store.RangeReader) else None


def real_path(path: StoragePath) -> StoragePath:
    """Return the path without symbolic links, for comparisons; one that leads into a loop keeps it.

    `Path.resolve` raises RuntimeError for a loop, up to Python 3.12.
    """
    return Path(os.path.realpath(path)) if isinstance(path, Path) else path


def list_files(folder: StoragePath, suffix: str, *, recursive: bool = False) -> Sequence[StoragePath]:
    """Return the files with this suffix in a folder, or anywhere below it if `recursive`, sorted."""
    pattern = f"*{suffix}"
    if isinstance(folder, Path):
        return sorted(folder.rglob(pattern) if recursive else folder.glob(pattern))
    names = (name for name in sorted(object_store.list_objects(str(folder))) if recursive or "/" not in name)
    return [folder / name for name in names if fnmatch.fnmatchcase(PurePosixPath(name).name, pattern)]


def file_size(path: StoragePath) -> int:
    """Return the size of a file in bytes.

    Raises:
        InputError: the object no longer exists.
        OSError: the file no longer exists.
    """
    if isinstance(path, Path):
        return path.stat().st_size
    found = object_store.stat(str(path))
    if found is None:
        raise object_store.not_found_error(str(path))
    return found.size


def staging_path(path: StoragePath) -> Path:
    """Return the temporary path to which a file is written before it is renamed or uploaded; create its folder.

    Raises:
        OSError: the folder cannot be created.
    """
    if isinstance(path, Path):
        folder, name = path.parent, f"{path.name}.tmp"
    else:
        folder = path.cache.folder / "staging" if path.cache else Path(tempfile.gettempdir())
        name = f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}-{os.getpid()}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def upload_file(source: Path, path: BucketPath) -> None:
    """Upload `source`; with caching on, it becomes the cached copy.

    Raises:
        InputError, RunError: object storage rejects it or keeps failing.
    """
    found = object_store.upload(source, str(path))
    if path.cache is not None:
        for subfolder in ("files", "notes"):
            (path.cache.folder / subfolder).mkdir(parents=True, exist_ok=True)
        path.cache.adopt(source, str(path), found)


def remove_tree(folder: StoragePath) -> None:
    """Remove a folder and its contents."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        for name in object_store.list_objects(str(folder)):
            object_store.remove(f"{folder}/{name}")


def local_folder(folder: StoragePath) -> Path:
    """Return a local counterpart of a folder: itself, or a folder in the cache if it is in a bucket.

    Raises:
        InputError: it is in a bucket, and caching is off.
    """
    if isinstance(folder, Path):
        return folder
    if folder.cache is None:
        raise InputError(
            f"features_dir: {folder} needs a local folder, found data.cache_dir=null; set data.cache_dir, "
            "or features_dir to a local folder, or features=live"
        )
    return folder.cache.folder / "folders" / hashlib.sha256(str(folder.parent).encode()).hexdigest()[:32] / folder.name


def lock_folder(folder: StoragePath) -> Path:
    """Return the folder of the lock file for a folder: itself, or a local one if it is in a bucket."""
    if isinstance(folder, Path):
        return folder
    base = folder.cache.folder if folder.cache else Path(tempfile.gettempdir()) / f"instructrl-{os.getuid()}"
    return base / "locks" / hashlib.sha256(str(folder).encode()).hexdigest()[:32]
