"""Means over batches, and over what is left of them after an interruption."""

from collections.abc import Mapping
from typing import Any


class Mean:
    """The mean of metrics, each batch weighted by its number of keyframe steps, or of what else it counts as `steps`.

    A metric that some batches do not have is the mean over those that have it.
    """

    def __init__(
        self, sums: dict[str, float] | None = None, count: float = 0.0, counts: dict[str, float] | None = None
    ) -> None:
        self.sums = dict(sums or {})
        self.counts = dict.fromkeys(self.sums, count) if counts is None else dict(counts)
        self.last: dict[str, float] = {}
        self.count = count

    def add(self, values: Mapping[str, float]) -> None:
        """Add one batch's metrics, as they were fetched from the device."""
        self.last = dict(values)
        steps = self.last.pop("steps")
        self.count += steps
        for key, value in self.last.items():
            self._add(key, value * steps, steps)

    def include(self, other: "Mean") -> None:
        """Add all that another mean is of."""
        self.count += other.count
        for key, value in other.sums.items():
            self._add(key, value, other.counts[key])

    def _add(self, key: str, value: float, count: float) -> None:
        self.sums[key] = self.sums.get(key, 0.0) + value
        self.counts[key] = self.counts.get(key, 0.0) + count

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {key: value / self.counts[key] for key, value in self.sums.items()}

    def recorded(self) -> dict[str, Any]:
        """Its arguments, to go on later with the same numbers."""
        return {"sums": dict(self.sums), "count": self.count, "counts": dict(self.counts)}
