"""Local cache of objects in buckets: downloaded on first use, verified by checksum, then read from disk.

    <folder>/files/<digest>-<name>          a copy
    <folder>/files/<digest>-<name>.part     a download in progress
    <folder>/notes/<digest>-<name>.json     URL and version of the object; its mtime is the time of the last use

Processes of one machine share the folder. A process that reads or downloads a file holds a lock on it, released when
the process dies. Space is freed by evicting the least recently used copies that no process has locked.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, lock_descriptor

from instructrl.errors import InputError
from instructrl.storage import object_store
from instructrl.storage.atomic import atomic_path, commit
from instructrl.storage.json_file import read_json

MAX_REPLACEMENTS = 5  # retries if an object is replaced during its download


@dataclass(frozen=True)
class Cache:
    """A folder of copies, and their maximum total size in bytes."""

    folder: Path
    limit: int

    @contextmanager
    def copy(self, url: str) -> Iterator[Path]:
        """Yield the local copy of an object: up to date when the block is entered, kept until it ends.

        Raises:
            InputError: there is no such object, reading it is forbidden, or there is no space for the copy.
            RunError: object storage keeps failing.
        """
        with self._writable():
            handle = self._acquire(url)
        try:
            yield self.path(url)
        finally:
            os.close(handle)

    def adopt(self, source: Path, url: str, found: object_store.ObjectStat) -> None:
        """Move a file that was just uploaded to `url` into the cache, or delete it if there is no space."""
        with self._writable(), locked(self._note(url).with_suffix(".lock")), locked(self.folder / ".lock"):
            if self._make_room(found.size, replacing=self.path(url)):
                commit(source, self.path(url))
                self._write_note(url, found)
            source.unlink(missing_ok=True)

    def path(self, url: str) -> Path:
        """Return the path of the copy of an object."""
        return self.folder / "files" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}-{url.rpartition('/')[2][:80]}"

    def _note(self, url: str) -> Path:
        return self.folder / "notes" / f"{self.path(url).name}.json"

    def _acquire(self, url: str) -> int:
        """Return an open handle on the copy, with a shared lock."""
        for subfolder in ("files", "notes"):
            (self.folder / subfolder).mkdir(parents=True, exist_ok=True)
        with locked(self._note(url).with_suffix(".lock")):  # one process downloads it, others wait
            for _ in range(MAX_REPLACEMENTS):
                found = object_store.stat(url)
                if found is None:
                    raise object_store.not_found_error(url)
                handle = self._open(url, found)
                if handle is not None:
                    return handle
                with suppress(FileNotFoundError):  # replaced or removed just now: try again
                    return self._fetch(url, found)
        raise InputError(f"{url}: replaced {MAX_REPLACEMENTS} times while it was read; wait until it no longer changes")

    def _open(self, url: str, found: object_store.ObjectStat) -> int | None:
        """Return a handle on the copy if it exists, is of this version, and was not modified; else None."""
        with locked(self.folder / ".lock"):
            try:
                handle = os.open(self.path(url), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(handle, fcntl.LOCK_SH)
            status = os.fstat(handle)
            try:
                note = read_json(self._note(url))
            except (OSError, ValueError):
                note = None
            if note == cache_note(url, found, status.st_mtime_ns) and status.st_size == found.size:
                os.utime(self._note(url), ns=(time.time_ns(),) * 2)  # finer than the kernel's own timestamp
                return handle
            os.close(handle)
            self.path(url).unlink()  # open handles stay valid
            return None

    def _fetch(self, url: str, found: object_store.ObjectStat) -> int:
        part = self.path(url).with_name(self.path(url).name + ".part")
        with locked(self.folder / ".lock"):
            part.unlink(missing_ok=True)  # left by a process that died
            if not self._make_room(found.size):
                raise self._too_small(url, found.size)
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.ftruncate(handle, found.size)  # counts towards the limit from now on
        try:
            object_store.download(url, found, part)
            with locked(self.folder / ".lock"):
                commit(part, self.path(url))
                self._write_note(url, found)
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(handle)
            raise
        return handle

    def _write_note(self, url: str, found: object_store.ObjectStat) -> None:
        with atomic_path(self._note(url), exclusive=True) as temporary:
            note = cache_note(url, found, self.path(url).stat().st_mtime_ns)
            temporary.write_text(json.dumps(note), encoding="utf-8")

    def _make_room(self, size: int, *, replacing: Path | None = None) -> bool:
        """Evict least recently used copies until `size` more bytes fit; if they cannot, evict none and return False."""
        files = {path: path.stat().st_size for path in (self.folder / "files").iterdir() if path != replacing}
        excess, evicted = sum(files.values()) + size - self.limit, []
        for path in sorted(files, key=self._last_use):
            if excess <= 0:
                break
            if is_unlocked(path):
                evicted.append(path)
                excess -= files[path]
        if excess > 0:
            return False
        for path in evicted:
            path.unlink()
            (self.folder / "notes" / f"{path.name}.json").unlink(missing_ok=True)
        return True

    def _last_use(self, path: Path) -> int:
        with suppress(OSError):
            return (self.folder / "notes" / f"{path.name}.json").stat().st_mtime_ns
        return 0

    def _too_small(self, url: str, size: int) -> InputError:
        used = sum(path.stat().st_size for path in (self.folder / "files").iterdir() if not is_unlocked(path))
        return InputError(
            f"{url}: its copy takes {size / 1e9:.3g} GB; of data.cache_gb={self.limit / 1e9:.6g}, copies in use take "
            f"{used / 1e9:.3g}; raise data.cache_gb, or read without a cache: data.cache_dir=null"
        )

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({error.strerror or error}); "
                "free space or choose another data.cache_dir"
            ) from None


def cache_note(url: str, found: object_store.ObjectStat, modified: int) -> dict[str, object]:
    """Return the content of the note of a copy."""
    return {"url": url, "size": found.size, "tag": found.tag, "modified": modified}


def locked(path: Path) -> BaseFileLock:
    """Return a lock on a file that is created if missing, to enter with `with`: waits for other processes."""
    return FileLock(path, fallback_to_soft=False, poll_interval=0.01)


def is_unlocked(path: Path) -> bool:
    """Return True if no process has locked a file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return lock_descriptor(handle, blocking=False)
    finally:
        os.close(handle)
