"""Finished parts of a file of demonstrations, stored next to it until they are merged.

A part is written atomically, so that a killed collection resumes with the parts that exist, whoever wrote them.
"""

import re
from collections.abc import Iterable
from contextlib import suppress

from instructrl.config.fields import number_ranges
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

    def path(self, numbers: range) -> StoragePath:
        """Path of one part."""
        return self.folder / f"{numbers.start:08d}-{numbers.stop:08d}.hdf5"

    def header(self) -> Header | None:
        """Header of the existing parts; None if there are none."""
        for numbers in self._existing():
            with suppress(InputError):
                return read(self.path(numbers))[0]
        return None

    def unfinished(self, header: Header, among: Iterable[int] | None = None) -> list[range]:
        """Return the parts to collect: of the episodes `among`, or of all, those that no finished part has."""
        finished = {number for numbers in self.finished(header) for number in numbers}
        wanted = range(self.present, self.wanted) if among is None else among
        gaps = number_ranges(number for number in wanted if number not in finished)
        return [
            range(first, min(first + self.size, last + 1))
            for begin, last in gaps
            for first in range(begin, last + 1, self.size)
        ]

    def finished(self, header: Header) -> list[range]:
        """Episode numbers of each part with this header, in order and without overlaps.

        Others are from another simulator, for example, or the jobs that wrote them had other shares.
        """
        found: list[range] = []
        for numbers in self._existing():
            if numbers.start >= (found[-1].stop if found else self.present) and self._is_finished(numbers, header):
                found.append(numbers)
        return found

    def _existing(self) -> list[range]:
        """Episode numbers of each part that there is, in order, without those of which only some are needed."""
        names = (re.fullmatch(r"(\d+)-(\d+)\.hdf5", path.name) for path in self.folder.glob("*.hdf5"))
        found = sorted((int(name[1]), int(name[2])) for name in names if name)
        return [range(start, stop) for start, stop in found if self.present <= start and stop <= self.wanted]

    def _is_finished(self, numbers: range, header: Header) -> bool:
        with suppress(InputError):
            found, contents = read(self.path(numbers))
            return found == header and len(contents.seed) == len(numbers)
        return False

    def write(self, numbers: range, demonstrations: list[Demonstration], header: Header) -> None:
        """Write a finished part."""
        with Writer(self.path(numbers), header, compression=self.compression) as writer:
            for demonstration in demonstrations:
                writer.add(demonstration)

    def merge(self, header: Header) -> None:
        """Append all parts, which have this header, to the target atomically, and remove them."""
        before = [self.target] if self.present else []
        sources = [*before, *(self.path(numbers) for numbers in self.finished(header))]
        merge(self.target, sources, compression=self.compression)
        remove_tree(self.folder)

    def remove_merged(self) -> None:
        """Remove parts that are already merged: left over if the process was killed between merging and removing."""
        for path in self.folder.glob("*.hdf5"):
            if int(path.stem.partition("-")[2]) <= self.present:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: parts of an unfinished collection
            self.folder.rmdir()
