"""Which episodes an epoch shows, and in which order: a pure function of (seed, epoch).

Episodes are numbered through, file by file. All chance is raw bits of Philox: the same in any numpy.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np


class Order:
    """The order of every epoch. Can be pickled and shared between threads.

    Attributes:
        length: sequences of an epoch: as many as there are episodes.
        shares: how many of them each file has; with weights, fixed to within one sequence.
    """

    def __init__(
        self, counts: Sequence[int], *, seed: int, shuffle: bool = True, weights: Sequence[float] | None = None
    ) -> None:
        """`counts` (>= 1) are the episodes of each file.

        Without `weights` every episode is shown once per epoch. With them (> 0, one for each file) each file has its
        share of an epoch, and its episodes are shown in cycles that go on from epoch to epoch: none is shown again
        before all were. Without `shuffle` every epoch is the first, in the order of the files.
        """
        self.seed, self.shuffle, self.counts = seed, shuffle, list(counts)
        self.length = sum(self.counts)
        self._weighted = weights is not None
        self.shares = self.counts if weights is None else apportioned(self.length, weights)
        self._latest: tuple[int, np.ndarray, np.ndarray] | None = None

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's episodes in order, int64, and a draw of 64 bits for each, uint64; neither may be changed."""
        epoch = epoch if self.shuffle else 0
        latest = self._latest
        if latest is None or latest[0] != epoch:
            latest = self._latest = (epoch, *self._drawn(epoch))
        return latest[1:]

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
        keys, draws = numbers.random_raw(self.length), numbers.random_raw(self.length)
        shown = self._shown(epoch) if self._weighted else np.arange(self.length)
        if not self.shuffle:
            return shown, draws
        order = np.argsort(keys, kind="stable")
        return shown[order], draws[order]

    def _shown(self, epoch: int) -> np.ndarray:
        """The episodes of a weighted epoch, file by file."""
        firsts = np.cumsum(self.counts) - self.counts
        files = enumerate(zip(firsts, self.shares, strict=True))
        return np.concatenate([first + self._cycled(file, epoch * share, share) for file, (first, share) in files])

    def _cycled(self, file: int, start: int, count: int) -> np.ndarray:
        """A file's episodes number `start` to `start + count` in the row of all its cycles."""
        size = self.counts[file]
        cycles = range(start // size, -(-(start + count) // size))
        row = [np.zeros(0, np.int64), *(self._cycle(file, cycle) for cycle in cycles)]
        return np.concatenate(row)[start - cycles.start * size :][:count]

    def _cycle(self, file: int, cycle: int) -> np.ndarray:
        """All episodes of a file, once, in an order of their own."""
        if not self.shuffle:
            return np.arange(self.counts[file])
        numbers = np.random.Philox(np.random.SeedSequence([self.seed, cycle, file + 1]))  # a 0 behind changes nothing
        return np.argsort(numbers.random_raw(self.counts[file]), kind="stable")


def apportioned(total: int, weights: Sequence[float]) -> list[int]:
    """`total` parts in proportion to weights (> 0), each share exact to within one part: the largest remainders win."""
    exact = [Fraction(weight) * total / sum(map(Fraction, weights)) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: shares[place] - exact[place])
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    return shares
