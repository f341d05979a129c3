"""Statistics of a LeRobot data set's features, with which its policies normalize."""

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


class PixelStatistics:
    """Statistics of a camera's channels in [0, 1], from counts of each of the 256 values."""

    def __init__(self) -> None:
        self._counts, self._frames = np.zeros((3, 256), np.int64), 0

    def add(self, images: np.ndarray) -> None:
        """Count images, uint8 [N H W 3]."""
        self._frames += len(images)
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(images[..., channel].reshape(-1), minlength=256)

    def summary(self) -> dict[str, Any]:
        """Statistics as stats.json has them: each channel's in a list of its own, of shape (3, 1, 1)."""
        values, total = np.arange(256) / 255, self._counts.sum(axis=1)
        mean = self._counts @ values / total
        used = self._counts > 0
        found = {
            "min": values[used.argmax(axis=1)],
            "max": values[255 - used[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(self._counts @ values**2 / total - mean**2, 0)),
        }
        ends = np.cumsum(self._counts, axis=1)
        for name, share in QUANTILES.items():
            found[name] = values[(ends >= share * total[:, None]).argmax(axis=1)]
        return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {"count": [self._frames]}


def number_statistics(values: np.ndarray) -> dict[str, Any]:
    """Statistics of numbers [N M] as stats.json has them."""
    values = np.asarray(values, np.float64)
    found = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        **{name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()},
    }
    return {name: value.tolist() for name, value in found.items()} | {"count": [len(values)]}
