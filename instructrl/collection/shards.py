"""Finished parts of a file of demonstrations, stored next to it until they are merged.

A part is written atomically, so that a killed collection resumes with the parts that exist.
"""

from contextlib import suppress

from instructrl.data.demonstrations.dataset import merge
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Header
from instructrl.data.demonstrations.writer import Writer
from instructrl.errors import InputError
from instructrl.storage.paths import StoragePath, remove_tree
from instructrl.types import Demonstration

EPISODES = 25  # per part: at most this many are lost per split if the process is killed


class Parts:
    """The parts of `target` with its episodes `present` to `wanted` (exclusive, counted from 0)."""

    def __init__(
        self, target: StoragePath, *, present: int, wanted: int, size: int = EPISODES, compression: str = "none"
    ) -> None:
        self.compression = compression
        self.target, self.present, self.wanted, self.size = target, present, wanted, size
        self.folder = target.with_suffix(".parts")

    def ranges(self) -> list[range]:
        """Episode numbers of each part, in order."""
        stop = self.wanted
        return [range(first, min(first + self.size, stop)) for first in range(self.present, stop, self.size)]

    def path(self, numbers: range) -> StoragePath:
        """Path of one part."""
        return self.folder / f"{numbers.start:08d}-{numbers.stop:08d}.hdf5"

    def header(self) -> Header | None:
        """Header of the existing parts; None if there are none."""
        for numbers in self.ranges():
            with suppress(InputError):
                return read(self.path(numbers))[0]
        return None

    def unfinished(self, header: Header) -> list[range]:
        """Parts that are missing or have another header (from another simulator, for example)."""
        return [numbers for numbers in self.ranges() if not self._finished(numbers, header)]

    def _finished(self, numbers: range, header: Header) -> bool:
        with suppress(InputError):
            found, contents = read(self.path(numbers))
            return found == header and len(contents.seed) == len(numbers)
        return False

    def write(self, numbers: range, demonstrations: list[Demonstration], header: Header) -> None:
        """Write a finished part."""
        with Writer(self.path(numbers), header, compression=self.compression) as writer:
            for demonstration in demonstrations:
                writer.add(demonstration)

    def merge(self) -> None:
        """Append all parts to the target atomically, and remove them."""
        before = [self.target] if self.present else []
        sources = [*before, *(self.path(numbers) for numbers in self.ranges())]
        merge(self.target, sources, compression=self.compression)
        remove_tree(self.folder)

    def remove_merged(self) -> None:
        """Remove parts that are already merged: left over if the process was killed between merging and removing."""
        for path in self.folder.glob("*.hdf5"):
            if int(path.stem.partition("-")[2]) <= self.present:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: parts of an unfinished collection
            self.folder.rmdir()
