"""Paths that may lie on disk or in a bucket: what settings and command lines name becomes a `Place`.

A `Place` is a `Path`, or a `BucketPath` that answers to the same names as far as the suite needs them. A file in a
bucket is read through a local copy (see `cache`), or, without a folder for copies, in requests (see `buckets.Blocks`).
It is written to a local file first, sent whole and compared with what the store reports.
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

from instructrl.config import DataConfig
from instructrl.data import buckets
from instructrl.data.cache import Cache
from instructrl.errors import InputError, RunError


@dataclass(frozen=True)
class BucketPath:
    """An address in a bucket, and where copies of what is there are kept."""

    bucket: str  # gs://NAME or s3://NAME
    key: PurePosixPath
    cache: Cache | None = None

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key.name else self.bucket

    def __truediv__(self, name: str) -> "BucketPath":
        return replace(self, key=self.key / name)

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.name

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return self.key.stem

    @property
    def suffix(self) -> str:
        """The ending, with its dot."""
        return self.key.suffix

    @property
    def parent(self) -> "BucketPath":
        """The folder around it."""
        return replace(self, key=self.key.parent)

    def with_suffix(self, suffix: str) -> "BucketPath":
        """With another ending."""
        return replace(self, key=self.key.with_suffix(suffix))

    def exists(self) -> bool:
        """Whether there is an object of this name."""
        return buckets.stat(str(self)) is not None

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """The objects right below whose names fit."""
        names = buckets.listing(str(self))
        return (self / name for name in sorted(names) if "/" not in name and fnmatch.fnmatchcase(name, pattern))

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        return bool(buckets.listing(str(self)))

    def resolve(self) -> "BucketPath":
        """Itself: an object has one address."""
        return self

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object, there or not."""
        buckets.remove(str(self))

    def rmdir(self) -> None:
        """Nothing: a folder without objects is none."""


Place: TypeAlias = Path | BucketPath
Source: TypeAlias = Path | buckets.Blocks  # what h5py opens


def place(given: str | Place, data: DataConfig | None = None) -> Place:
    """What a setting or a command line names; copies of what lies in a bucket are kept as `data` says.

    Raises:
        InputError: an address without a bucket.
    """
    if isinstance(given, BucketPath):
        return given
    text = str(given)
    if not text.startswith(buckets.SCHEMES):
        return Path(given)
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
def readable(path: Place) -> Iterator[Source]:
    """What h5py can open: the file, its local copy, or the object itself.

    Raises:
        InputError: there is no such object, or it may not be read.
        RunError: the store keeps failing.
    """
    if isinstance(path, Path):
        yield path
    elif path.cache is not None:
        with path.cache.copy(str(path)) as copy:
            yield copy
    else:
        found = buckets.stat(str(path))
        if found is None:
            raise buckets.missing(str(path))
        with buckets.Blocks(str(path), found) as blocks:
            yield blocks


def failure(source: Source | None) -> InputError | RunError | None:
    """Why a store did not give what HDF5 asked for.

    It is a copy: a raised error holds the frames it went through, and with them what HDF5 holds of `source`, a circle
    that Python cannot free. HDF5 frees it after Python has ended, which is a segmentation fault.
    """
    return copy(source.error) if isinstance(source, buckets.Blocks) else None


def files_in(folder: Place, ending: str, *, below: bool = False) -> Sequence[Place]:
    """The files in a folder, or anywhere below it, whose names end so, in order."""
    pattern = f"*{ending}"
    if isinstance(folder, Path):
        return sorted(folder.rglob(pattern) if below else folder.glob(pattern))
    names = (name for name in sorted(buckets.listing(str(folder))) if below or "/" not in name)
    return [folder / name for name in names if fnmatch.fnmatchcase(PurePosixPath(name).name, pattern)]


def size_of(path: Place) -> int:
    """Bytes of a file.

    Raises:
        InputError: it is in a bucket no longer.
        OSError: it is on the disk no longer.
    """
    if isinstance(path, Path):
        return path.stat().st_size
    found = buckets.stat(str(path))
    if found is None:
        raise buckets.missing(str(path))
    return found.size


def staging(path: Place) -> Path:
    """Where a file is written before it takes its place; its folder is created.

    Raises:
        OSError: it cannot be.
    """
    if isinstance(path, Path):
        folder, name = path.parent, f"{path.name}.tmp"
    else:
        folder = path.cache.folder / "staging" if path.cache else Path(tempfile.gettempdir())
        name = f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}-{os.getpid()}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def send(source: Path, path: BucketPath) -> None:
    """Put a written file into its bucket; the local copy is `source` from now on, if copies are kept.

    Raises:
        InputError, RunError: the store refuses it or keeps failing.
    """
    found = buckets.upload(source, str(path))
    if path.cache is not None:
        for part in ("files", "notes"):
            (path.cache.folder / part).mkdir(parents=True, exist_ok=True)
        path.cache.adopt(source, str(path), found)


def remove_tree(folder: Place) -> None:
    """Remove a folder and what is in it."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        for name in buckets.listing(str(folder)):
            buckets.remove(f"{folder}/{name}")


def local_folder(folder: Place) -> Path:
    """Where a folder that must lie on the disk lies: itself, or for a bucket's among the local copies.

    Raises:
        InputError: it is a bucket's, and no copies are kept.
    """
    if isinstance(folder, Path):
        return folder
    if folder.cache is None:
        raise InputError(
            f"features_dir: {folder} needs a local folder, found data.cache_dir=null; set data.cache_dir, "
            "or features_dir to a folder on the disk, or features=live"
        )
    return folder.cache.folder / "folders" / hashlib.sha256(str(folder.parent).encode()).hexdigest()[:32] / folder.name


def lock_folder(folder: Place) -> Path:
    """Where the processes of this machine agree on who works in a folder: in it, or for a bucket's on the disk."""
    if isinstance(folder, Path):
        return folder
    base = folder.cache.folder if folder.cache else Path(tempfile.gettempdir()) / f"instructrl-{os.getuid()}"
    return base / "locks" / hashlib.sha256(str(folder).encode()).hexdigest()[:32]
