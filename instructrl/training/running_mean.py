"""Weighted running means of metrics; serializable so that an epoch can resume."""

from collections.abc import Mapping
from typing import TypedDict


class MeanState(TypedDict, total=False):
    """Constructor arguments of a `RunningMean`, as a checkpoint holds them; none at the end of an epoch."""

    sums: dict[str, float]
    count: float
    counts: dict[str, float]


class RunningMean:
    """Running mean of metrics, each batch weighted by its metric `steps` (keyframe steps, or the number of examples).

    A metric that is absent from some batches is the mean over those that have it.
    """

    def __init__(
        self, sums: dict[str, float] | None = None, count: float = 0.0, counts: dict[str, float] | None = None
    ) -> None:
        self.sums = dict(sums or {})
        self.counts = dict.fromkeys(self.sums, count) if counts is None else dict(counts)
        self.last: dict[str, float] = {}
        self.count = count

    def add(self, values: Mapping[str, float]) -> None:
        """Add one batch's metrics (host values)."""
        self.last = dict(values)
        steps = self.last.pop("steps")
        self.count += steps
        for key, value in self.last.items():
            self._add(key, value * steps, steps)

    def merge(self, other: "RunningMean") -> None:
        """Add everything that another running mean has accumulated."""
        self.count += other.count
        for key, value in other.sums.items():
            self._add(key, value, other.counts[key])

    def _add(self, key: str, value: float, count: float) -> None:
        self.sums[key] = self.sums.get(key, 0.0) + value
        self.counts[key] = self.counts.get(key, 0.0) + count

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {key: value / self.counts[key] for key, value in self.sums.items()}

    def state_dict(self) -> MeanState:
        """Constructor arguments that restore this state exactly."""
        return {"sums": dict(self.sums), "count": self.count, "counts": dict(self.counts)}
