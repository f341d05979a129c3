"""The workspace: the box in which the actions of a world lie, and positions relative to it.

Every simulator and every file of demonstrations has its own. Heads predict positions relative to it, so an agent acts
only in the workspace of its demonstrations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from instructrl.errors import InputError, format_value

LARGEST = 1e4  # metres from the origin
SMALLEST = 1e-3  # metres between two opposite faces
Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Workspace:
    """A box in the world frame, in metres; its corners have the precision of float32, as actions do.

    Methods take positions [..., 3] as numpy or jax arrays and return the same type (array API).

    Attributes:
        low: x y z of the lowest corner.
        high: x y z of the highest corner.
    """

    low: Corner
    high: Corner

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            x, y, z = (float(np.float32(value)) for value in getattr(self, name))
            object.__setattr__(self, name, (x, y, z))

    @classmethod
    def from_numbers(cls, numbers: Sequence[float], *, key: str) -> Self:
        """The workspace of six numbers: x y z of the lowest corner, then of the highest.

        Raises:
            InputError: they are no box; `key` is where they come from.
        """
        values = np.asarray(numbers, np.float64)
        valid = values.shape == (6,) and bool(np.isfinite(values).all() and (np.abs(values) <= LARGEST).all())
        if not valid or (values[3:] - values[:3] < SMALLEST).any():
            raise InputError(
                f"{key}: found {format_value([*numbers])}; allowed: six numbers in metres, x y z of the lowest corner "
                f"and of the highest, at least {SMALLEST:g} apart in each direction"
            )
        x, y, z, *highest = values.tolist()
        return cls((x, y, z), (highest[0], highest[1], highest[2]))

    @classmethod
    def around(cls, positions: np.ndarray, *, margin: float, least: float) -> Self:
        """The smallest workspace of positions [N 3], wider on each side by a margin.

        Args:
            positions: at least one, in metres.
            margin: relative to the extent in each direction.
            least: the margin's lower bound in metres.
        """
        low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
        beside = np.maximum(margin * (high - low), least)
        (a, b, c), (d, e, f) = np.round(low - beside, 3).tolist(), np.round(high + beside, 3).tolist()
        return cls((a, b, c), (d, e, f))

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest corner, float32 [3] each, of which a program has one constant."""
        corners = np.array(self.low, np.float32), np.array(self.high, np.float32)
        for corner in corners:
            corner.setflags(write=False)
        return corners

    @property
    def numbers(self) -> list[float]:
        """The six numbers of `from_numbers`, as few digits as determine them."""
        return [float(str(np.float32(value))) for value in (*self.low, *self.high)]

    def __str__(self) -> str:
        return f"[{','.join(repr(value).removesuffix('.0') for value in self.numbers)}]"

    def normalize(self, position: Any) -> Any:
        """Map metres to [-1, 1] per axis (points outside map outside)."""
        low, high = self.bounds
        return (position - low) / (high - low) * 2 - 1

    def denormalize(self, normalized: Any) -> Any:
        """Invert `normalize`."""
        low, high = self.bounds
        return (normalized + 1) / 2 * (high - low) + low

    def to_bins(self, position: Any, count: int) -> Any:
        """Positions in `count` bins along each axis: integers are centres of bins, and limits are clipped."""
        xp = position.__array_namespace__()
        low, high = self.bounds
        return xp.clip((position - low) / (high - low) * count, 0, count) - 0.5

    def from_bins(self, values: Any, count: int) -> Any:
        """Invert `to_bins`."""
        low, high = self.bounds
        return (values + 0.5) / count * (high - low) + low

    def clip(self, position: Any) -> Any:
        """The nearest points inside."""
        return position.__array_namespace__().clip(position, *self.bounds)

    def contains(self, position: Any) -> Any:
        """True for each position that lies inside or on the surface [...]."""
        low, high = self.bounds
        return position.__array_namespace__().all((position >= low) & (position <= high), axis=-1)


RLBENCH_WORKSPACE = Workspace((-0.3, -0.5, 0.6), (0.7, 0.5, 1.6))
"""The box around RLBench's table in which PerAct predicts, of which the embedded simulator is a copy; also that of data
and runs which were recorded before they had a workspace of their own."""
