"""Sampler: the episodes of an epoch in order, a pure function of (seed, epoch).

Episodes are numbered globally, file by file. All randomness is raw bits of Philox: equal in any version of numpy.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np


class Sampler:
    """Order of the episodes of every epoch. Picklable, thread-safe.

    Attributes:
        length: number of sequences of an epoch, equal to that of episodes.
        shares: number of them from each file; with weights, exact to within one sequence.
    """

    def __init__(
        self, counts: Sequence[int], *, seed: int, shuffle: bool = True, weights: Sequence[float] | None = None
    ) -> None:
        """Configure the order; `counts` (>= 1) are the numbers of episodes of the files.

        Without `weights` every episode appears once per epoch. With them (> 0, one for each file) each file has its
        share of an epoch, and its episodes appear in cycles that continue across epochs: none is repeated before all
        others appeared. Without `shuffle` every epoch equals the first, in the order of the files.
        """
        self.seed, self.shuffle, self.counts = seed, shuffle, list(counts)
        self.length = sum(self.counts)
        self._weighted = weights is not None
        self.shares = self.counts if weights is None else apportion(self.length, weights)
        self._latest: tuple[int, np.ndarray, np.ndarray] | None = None

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch's episodes in order, int64, and 64 random bits for each, uint64; do not modify them."""
        epoch = epoch if self.shuffle else 0
        latest = self._latest
        if latest is None or latest[0] != epoch:
            latest = self._latest = (epoch, *self._sample(epoch))
        return latest[1:]

    def _sample(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
        keys, draws = numbers.random_raw(self.length), numbers.random_raw(self.length)
        episodes = self._weighted_episodes(epoch) if self._weighted else np.arange(self.length)
        if not self.shuffle:
            return episodes, draws
        order = np.argsort(keys, kind="stable")
        return episodes[order], draws[order]

    def _weighted_episodes(self, epoch: int) -> np.ndarray:
        """Return the episodes of a weighted epoch, file by file."""
        firsts = np.cumsum(self.counts) - self.counts
        files = enumerate(zip(firsts, self.shares, strict=True))
        return np.concatenate([first + self._cycle_range(file, epoch * share, share) for file, (first, share) in files])

    def _cycle_range(self, file: int, start: int, count: int) -> np.ndarray:
        """Return entries `start` to `start + count` of the concatenated cycles of a file."""
        size = self.counts[file]
        cycles = range(start // size, -(-(start + count) // size))
        parts = [np.zeros(0, np.int64), *(self._cycle(file, cycle) for cycle in cycles)]
        return np.concatenate(parts)[start - cycles.start * size :][:count]

    def _cycle(self, file: int, cycle: int) -> np.ndarray:
        """Return all episodes of a file in the order of one cycle."""
        if not self.shuffle:
            return np.arange(self.counts[file])
        numbers = np.random.Philox(np.random.SeedSequence([self.seed, cycle, file + 1]))  # not 0: it would be ignored
        return np.argsort(numbers.random_raw(self.counts[file]), kind="stable")


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` in proportion to weights (> 0) by the largest-remainder method; each share is exact to within 1."""
    exact = [Fraction(weight) * total / sum(map(Fraction, weights)) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: shares[index] - exact[index])
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares
