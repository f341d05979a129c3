"""A folder in a bucket, worked on in a local one: fetched at the start, and what changed is sent back.

Each file arrives whole or not at all. Of a folder with Orbax's marker in it, which belongs together, the marker is
sent last and removed first, and without it the folder counts as not there.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from instructrl.data import buckets
from instructrl.data.owner import only_owner
from instructrl.data.storage import BucketPath, Place
from instructrl.errors import InputError, RunError

MARKER = "_CHECKPOINT_METADATA"
UNFINISHED = "orbax-checkpoint-tmp"  # in the names of what Orbax is still writing
AT_ONCE = 8  # files on their way


class Mirror:
    """A folder in a bucket and its local counterpart. What others put there since the last look is left alone."""

    def __init__(self, place: BucketPath, folder: Path) -> None:
        self.place, self.folder = place, folder
        self._known: dict[str, tuple[int, int]] = {}  # what the bucket has: the local files' sizes and times

    def pull(self) -> None:
        """Fetch everything that is whole.

        Raises:
            InputError, RunError: something may not be read, keeps failing, or cannot be written here.
        """
        for _ in range(5):
            try:
                self._each(self._fetch, complete(buckets.listing(str(self.place))))
                return
            except FileNotFoundError:
                continue  # replaced by its trainer just now: look again
        raise RunError(f"{self.place}: changed while it was read, again and again; the same command tries once more")

    def push(self) -> None:
        """Send what is new or changed, and remove what is no longer here.

        Raises:
            InputError, RunError: the store refuses it or keeps failing.
        """
        here = {name: self._state(name) for name in self._names()}
        changed = [name for name, state in here.items() if self._known.get(name) != state]
        gone = [name for name in self._known if name not in here]
        stale = {parent(name) for name in (*changed, *gone)}
        markers = [name for name in self._known if is_marker(name) and parent(name) in stale]
        self._each(self._remove, markers)
        self._each(self._send, [name for name in changed if not is_marker(name)])
        again = {*changed, *markers}
        self._each(self._send, [name for name in here if is_marker(name) and name in again])
        self._each(self._remove, [name for name in gone if name in self._known])

    def _each(self, act: Callable[[str], None], names: Iterable[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mirror") as pool:
            for _ in pool.map(act, [*names]):
                pass

    def _names(self) -> list[str]:
        paths = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        hidden = [any(part.startswith(".") or UNFINISHED in part for part in path.parts) for path in paths]
        return [path.as_posix() for path, left_out in zip(paths, hidden, strict=True) if not left_out]

    def _state(self, name: str) -> tuple[int, int]:
        seen = (self.folder / name).stat()
        return seen.st_size, seen.st_mtime_ns

    def _fetch(self, name: str) -> None:
        url, target = f"{self.place}/{name}", self.folder / name
        found = buckets.stat(url)
        if found is None:
            raise FileNotFoundError(url)
        temporary = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                buckets.download(url, found, temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror or error}); make room there") from None
        self._known[name] = self._state(name)

    def _send(self, name: str) -> None:
        state = self._state(name)
        buckets.upload(self.folder / name, f"{self.place}/{name}")
        self._known[name] = state

    def _remove(self, name: str) -> None:
        buckets.remove(f"{self.place}/{name}")
        self._known.pop(name, None)


def parent(name: str) -> str:
    """The folder of a checkpoint in which a file lies, or the one around it."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:2]) if parts[0] == "checkpoints" else str(PurePosixPath(name).parent)


def is_marker(name: str) -> bool:
    """Whether a file says that the folder around it is whole."""
    return PurePosixPath(name).name == MARKER and parent(name) == str(PurePosixPath(name).parent)


def complete(names: Iterable[str]) -> list[str]:
    """Of the names in a bucket, those that count: no parts of checkpoints that are not whole, nothing outside."""
    whole = {parent(name) for name in names if is_marker(name)}
    return [
        name
        for name in names
        if (parent(name) in whole or not parent(name).startswith("checkpoints/"))
        and str(PurePosixPath(name)) == name
        and not {"..", "/"} & set(PurePosixPath(name).parts)
        and not PurePosixPath(name).name.startswith(".")  # the owner's record is nobody's to copy
    ]


@dataclass(frozen=True)
class Workshop:
    """Where a folder is worked on: in itself, or for a bucket's in a local one that is sent back in the end."""

    place: Place
    folder: Path
    push: Callable[[], None] | None  # sends what changed so far; None where there is nothing to send

    def shown(self, path: Path) -> str:
        """A path inside the folder as the user knows it."""
        return str(path).replace(str(self.folder), str(self.place), 1)


@contextmanager
def workshop(place: Place, *, alone: bool) -> Iterator[Workshop]:
    """A run's folder to work in; what is in a bucket is fetched now, and what changed is sent also after an error.

    `alone`: other processes that want the same folder of a bucket for themselves are refused.

    Raises:
        InputError, RunError: the bucket cannot be read or written, or another process works there.
    """
    if isinstance(place, Path):
        yield Workshop(place, place, None)
        return
    with ExitStack() as stack:
        if alone:
            remedy = "add name=... for a run of its own"
            stack.enter_context(only_owner(place, does="trains", remedy=remedy, elsewhere="set TMPDIR"))
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="instructrl-")))
        mirror = Mirror(place, base / (place.name or "run"))
        mirror.pull()
        shop = Workshop(place, mirror.folder, mirror.push)
        try:
            yield shop
        except (InputError, RunError) as error:
            mirror.push()
            raise type(error)(str(error).replace(str(mirror.folder), str(place))) from None
        except BaseException:
            mirror.push()
            raise
        mirror.push()
