"""Finished pieces of a file of demonstrations, kept beside it until they are merged into it.

A piece is written whole or not at all, so that a collection that was killed at any moment goes on with what is there.
"""

from contextlib import suppress

from instructrl.batch import Demonstration
from instructrl.data.episodes import merge
from instructrl.data.format import Header
from instructrl.data.reader import read
from instructrl.data.storage import Place, remove_tree
from instructrl.data.writer import Writer
from instructrl.errors import InputError

EPISODES = 25  # in a part: what a kill costs at most, for each split


class Parts:
    """The parts of `target` that hold its episodes `present` to `wanted` (numbers from 0)."""

    def __init__(
        self, target: Place, *, present: int, wanted: int, size: int = EPISODES, compression: str = "none"
    ) -> None:
        self.compression = compression
        self.target, self.present, self.wanted, self.size = target, present, wanted, size
        self.folder = target.with_suffix(".parts")

    def ranges(self) -> list[range]:
        """Which episodes go into which part, in order."""
        stop = self.wanted
        return [range(first, min(first + self.size, stop)) for first in range(self.present, stop, self.size)]

    def path(self, numbers: range) -> Place:
        """The file of one part."""
        return self.folder / f"{numbers.start:08d}-{numbers.stop:08d}.hdf5"

    def header(self) -> Header | None:
        """How the parts that are there were made, if there are any."""
        for numbers in self.ranges():
            with suppress(InputError):
                return read(self.path(numbers))[0]
        return None

    def unfinished(self, header: Header) -> list[range]:
        """The parts still to be made; one made otherwise (by another simulator, say) counts as not made."""
        return [numbers for numbers in self.ranges() if not self._finished(numbers, header)]

    def _finished(self, numbers: range, header: Header) -> bool:
        with suppress(InputError):
            found, contents = read(self.path(numbers))
            return found == header and len(contents.seed) == len(numbers)
        return False

    def write(self, numbers: range, demonstrations: list[Demonstration], header: Header) -> None:
        """Keep a finished part."""
        with Writer(self.path(numbers), header, compression=self.compression) as writer:
            for demonstration in demonstrations:
                writer.add(demonstration)

    def merge(self) -> None:
        """Put all parts behind what the target holds, in one step, and remove them."""
        before = [self.target] if self.present else []
        sources = [*before, *(self.path(numbers) for numbers in self.ranges())]
        merge(self.target, sources, compression=self.compression)
        remove_tree(self.folder)

    def remove_merged(self) -> None:
        """Remove parts that the target holds already: left over if a kill came between merging and removing."""
        for path in self.folder.glob("*.hdf5"):
            if int(path.stem.partition("-")[2]) <= self.present:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: parts of an unfinished collection
            self.folder.rmdir()
