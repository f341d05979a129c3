"""Local copies of objects in buckets: fetched whole when first asked for, compared with the store, then read from disk.

    <folder>/files/<digest>-<name>          a copy
    <folder>/files/<digest>-<name>.part     one that is being fetched
    <folder>/notes/<digest>-<name>.json     of which object and version it is; its time is that of its last use

Processes of one machine share the folder. Who uses or fetches a file holds a lock on it, and a lock dies with its
process. Room is made by removing the copies that were used longest ago and are in nobody's hands.
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

from instructrl.data import buckets
from instructrl.errors import InputError

MOVES = 5  # how often an object may be replaced while it is fetched


@dataclass(frozen=True)
class Cache:
    """A folder of copies, and the bytes that they may take together."""

    folder: Path
    limit: int

    @contextmanager
    def copy(self, url: str) -> Iterator[Path]:
        """The local copy of an object, current when it is handed out and kept until the block ends.

        Raises:
            InputError: there is no such object, it may not be read, or there is no room for the copy.
            RunError: the store keeps failing.
        """
        with self._writable():
            handle = self._hold(url)
        try:
            yield self.path(url)
        finally:
            os.close(handle)

    def adopt(self, source: Path, url: str, found: buckets.Found) -> None:
        """Keep a file that was just sent to `url`, if there is room; `source` is gone then."""
        with self._writable(), self._locked(self._note(url).with_suffix(".lock")), self._locked(self.folder / ".lock"):
            if self._make_room(found.size, replacing=self.path(url)):
                source.replace(self.path(url))
                self._write_note(url, found)
            source.unlink(missing_ok=True)

    def path(self, url: str) -> Path:
        """Where the copy of an object lies."""
        return self.folder / "files" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}-{url.rpartition('/')[2][:80]}"

    def _note(self, url: str) -> Path:
        return self.folder / "notes" / f"{self.path(url).name}.json"

    def _hold(self, url: str) -> int:
        """An open handle on the copy, with a lock that others may hold too."""
        for part in ("files", "notes"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        with self._locked(self._note(url).with_suffix(".lock")):  # one process fetches it, others wait
            for _ in range(MOVES):
                found = buckets.stat(url)
                if found is None:
                    raise buckets.missing(url)
                handle = self._open(url, found)
                if handle is not None:
                    return handle
                with suppress(FileNotFoundError):  # replaced or removed just now: look again
                    return self._fetch(url, found)
        raise InputError(f"{url}: replaced {MOVES} times while it was read; wait until it stays as it is")

    def _open(self, url: str, found: buckets.Found) -> int | None:
        """A handle on the copy if it is there, of this version, and as it was written."""
        with self._locked(self.folder / ".lock"):
            try:
                handle = os.open(self.path(url), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(handle, fcntl.LOCK_SH)
            seen = os.fstat(handle)
            try:
                note = json.loads(self._note(url).read_text())
            except (OSError, ValueError):
                note = None
            if note == told(url, found, seen.st_mtime_ns) and seen.st_size == found.size:
                os.utime(self._note(url), ns=(time.time_ns(),) * 2)  # finer than the clock of the kernel
                return handle
            os.close(handle)
            self.path(url).unlink()  # who reads it still does
            return None

    def _fetch(self, url: str, found: buckets.Found) -> int:
        part = self.path(url).with_name(self.path(url).name + ".part")
        with self._locked(self.folder / ".lock"):
            part.unlink(missing_ok=True)  # of a process that died
            if not self._make_room(found.size):
                raise self._too_small(url, found.size)
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.ftruncate(handle, found.size)  # counts from now on
        try:
            buckets.download(url, found, part)
            with self._locked(self.folder / ".lock"):
                part.replace(self.path(url))
                self._write_note(url, found)
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(handle)
            raise
        return handle

    def _write_note(self, url: str, found: buckets.Found) -> None:
        temporary = self._note(url).with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(told(url, found, self.path(url).stat().st_mtime_ns)))
        temporary.replace(self._note(url))

    def _make_room(self, size: int, *, replacing: Path | None = None) -> bool:
        """Remove what was used longest ago until `size` more bytes fit; if they cannot, nothing is removed: False."""
        files = {path: path.stat().st_size for path in (self.folder / "files").iterdir() if path != replacing}
        excess, chosen = sum(files.values()) + size - self.limit, []
        for path in sorted(files, key=self._last_use):
            if excess <= 0:
                break
            if free(path):
                chosen.append(path)
                excess -= files[path]
        if excess > 0:
            return False
        for path in chosen:
            path.unlink()
            (self.folder / "notes" / f"{path.name}.json").unlink(missing_ok=True)
        return True

    def _last_use(self, path: Path) -> int:
        with suppress(OSError):
            return (self.folder / "notes" / f"{path.name}.json").stat().st_mtime_ns
        return 0

    def _too_small(self, url: str, size: int) -> InputError:
        used = sum(path.stat().st_size for path in (self.folder / "files").iterdir() if not free(path))
        return InputError(
            f"{url}: its copy takes {size / 1e9:.3g} GB, of data.cache_gb={self.limit / 1e9:.6g} those in use take "
            f"{used / 1e9:.3g}; raise data.cache_gb, or read without copies: data.cache_dir=null"
        )

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({error.strerror or error}); "
                "make room or choose another data.cache_dir"
            ) from None


def told(url: str, found: buckets.Found, modified: int) -> dict[str, object]:
    """What a copy's note says."""
    return {"url": url, "size": found.size, "tag": found.tag, "modified": modified}


def free(path: Path) -> bool:
    """Whether no process holds a file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
