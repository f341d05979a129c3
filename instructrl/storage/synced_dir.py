"""A local working copy of a folder in a bucket: downloaded at the start, changes are uploaded.

Each file is transferred atomically. In a checkpoint folder of Orbax, the marker file is uploaded last and removed
first; a folder without it counts as incomplete and is ignored.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from instructrl.errors import InputError, RunError
from instructrl.storage import object_store
from instructrl.storage.atomic import atomic_path
from instructrl.storage.lease import exclusive_lease
from instructrl.storage.paths import BucketPath, StoragePath

MARKER = "_CHECKPOINT_METADATA"
UNFINISHED = "orbax-checkpoint-tmp"  # part of the names of folders that Orbax is still writing
CONCURRENCY = 8  # simultaneous transfers


class SyncedDir:
    """A folder in a bucket and its local copy. Files that other processes added since the last pull are left alone."""

    def __init__(self, location: BucketPath, folder: Path) -> None:
        self.location, self.folder = location, folder
        self._known: dict[str, tuple[int, int]] = {}  # in the bucket: size and mtime of the local file

    def pull(self) -> None:
        """Download all complete files.

        Raises:
            InputError, RunError: a file is not readable, keeps failing, or cannot be written locally.
        """
        for _ in range(5):
            try:
                self._each(self._fetch, complete(object_store.list_objects(str(self.location))))
                return
            except FileNotFoundError:
                continue  # replaced by a training run just now: list again
        raise RunError(f"{self.location}: kept changing while it was read; the same command tries again")

    def push(self) -> None:
        """Upload new and changed files, and remove those that were removed locally.

        Raises:
            InputError, RunError: object storage rejects it or keeps failing.
        """
        local = {name: self._state(name) for name in self._names()}
        changed = [name for name, state in local.items() if self._known.get(name) != state]
        removed = [name for name in self._known if name not in local]
        rewritten = {parent(name) for name in changed}
        markers = [name for name in self._known if is_marker(name) and parent(name) in rewritten]
        self._each(self._remove, markers)
        self._each(self._send, [name for name in changed if not is_marker(name)])
        to_send = {*changed, *markers}
        self._each(self._send, [name for name in local if is_marker(name) and name in to_send])
        # A checkpoint that was replaced by another one stays complete until that one is.
        self._each(self._remove, [name for name in removed if is_marker(name)])
        self._each(self._remove, [name for name in removed if not is_marker(name)])

    def _each(self, action: Callable[[str], None], names: Iterable[str]) -> None:
        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="sync") as pool:
            for _ in pool.map(action, [*names]):
                pass

    def _names(self) -> list[str]:
        paths = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        hidden = [any(part.startswith(".") or UNFINISHED in part for part in path.parts) for path in paths]
        return [path.as_posix() for path, left_out in zip(paths, hidden, strict=True) if not left_out]

    def _state(self, name: str) -> tuple[int, int]:
        status = (self.folder / name).stat()
        return status.st_size, status.st_mtime_ns

    def _fetch(self, name: str) -> None:
        url, target = f"{self.location}/{name}", self.folder / name
        found = object_store.stat(url)
        if found is None:
            raise FileNotFoundError(url)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target, exclusive=True) as temporary:
                object_store.download(url, found, temporary)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror or error}); make room there") from None
        self._known[name] = self._state(name)

    def _send(self, name: str) -> None:
        state = self._state(name)
        object_store.upload(self.folder / name, f"{self.location}/{name}")
        self._known[name] = state

    def _remove(self, name: str) -> None:
        object_store.remove(f"{self.location}/{name}")
        self._known.pop(name, None)


def parent(name: str) -> str:
    """Return the checkpoint folder that contains a file, or else its parent."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:2]) if parts[0] == "checkpoints" else str(PurePosixPath(name).parent)


def is_marker(name: str) -> bool:
    """Return True if a file marks its folder as complete."""
    return PurePosixPath(name).name == MARKER and parent(name) == str(PurePosixPath(name).parent)


def complete(names: Iterable[str]) -> list[str]:
    """Filter names in a bucket: no files of incomplete checkpoints, no hidden files, no paths that leave the folder."""
    with_marker = {parent(name) for name in names if is_marker(name)}
    return [
        name
        for name in names
        if (parent(name) in with_marker or not parent(name).startswith("checkpoints/"))
        and str(PurePosixPath(name)) == name
        and not {"..", "/"} & set(PurePosixPath(name).parts)
        and not PurePosixPath(name).name.startswith(".")  # such as the record of a lease
    ]


@dataclass(frozen=True)
class WorkingDir:
    """A local working copy of a run directory, synced with object storage; the directory itself if it is local."""

    location: StoragePath  # as the user named it
    folder: Path  # local
    push: Callable[[], None] | None  # uploads changes so far; None if the directory is local

    def display(self, path: Path) -> str:
        """Return a path inside the folder relative to the user's location, for messages."""
        return str(path).replace(str(self.folder), str(self.location), 1)


@contextmanager
def working_dir(location: StoragePath, *, exclusive: bool) -> Iterator[WorkingDir]:
    """Yield a local working copy of a run directory; changes are uploaded at the end, also after an error.

    `exclusive`: hold a lease on a directory in a bucket, so that a second process that wants it exclusively fails.

    Raises:
        InputError, RunError: the bucket cannot be read or written, or another process holds the lease.
    """
    if isinstance(location, Path):
        yield WorkingDir(location, location, None)
        return
    with ExitStack() as stack:
        if exclusive:
            hint = "add name=... for a separate run"
            stack.enter_context(exclusive_lease(location, activity="trains", busy_hint=hint, write_hint="set TMPDIR"))
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="instructrl-")))
        synced = SyncedDir(location, base / (location.name or "run"))
        synced.pull()
        work_dir = WorkingDir(location, synced.folder, synced.push)
        try:
            yield work_dir
        except (InputError, RunError) as error:
            synced.push()
            raise type(error)(str(error).replace(str(synced.folder), str(location))) from None
        except BaseException:
            synced.push()
            raise
        synced.push()
