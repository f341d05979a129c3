"""What stops a training that has gone wrong: a loss or a gradient that is no number."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from instructrl.data.episodes import Episodes
from instructrl.errors import RunError
from instructrl.schema import runs

REMEMBERED = 3  # steps that are told before the one that went wrong
NORMS = ("gradient_norm", "parameter_norm", "update_norm")
ADVICE = (
    "nothing of it was saved, and the last checkpoint is from before; look at the episodes with python -m "
    "data_tools.inspect, or lower optimizer.learning_rate or optimizer.clip_norm, and start under another name=..."
)


class Watch:
    """Looks at the numbers of every step, in order."""

    def __init__(self, batch_told: Callable[[int], str], *, advice: str) -> None:
        """`batch_told` says what the batch of a step holds, `advice` what to do."""
        self._batch_told, self._advice = batch_told, advice
        self._before: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=REMEMBERED)

    def look(self, values: Mapping[str, float], *, step: int) -> None:
        """Remember a step's numbers.

        Raises:
            RunError: its loss or its gradient is not finite.
        """
        wrong = [name for name in ("loss", "gradient_norm") if not math.isfinite(values.get(name, 0.0))]
        if wrong:
            what = wrong[0].replace("_", " ")
            before = (
                "; ".join(numbers(number, earlier) for number, earlier in self._before) or "no other step of this start"
            )
            raise RunError(
                f"{what} is {values[wrong[0]]} at step {step} ({numbers(step, values)}); before it: {before}; "
                f"its batch: {self._batch_told(step)}; {self._advice}"
            )
        self._before.append((step, values))


def numbers(step: int, values: Mapping[str, float]) -> str:
    """A step's loss and norms, in words."""
    norms = ", ".join(f"{name.replace('_', ' ')} {values[name]:.4g}" for name in NORMS if name in values)
    return f"step {step}: loss {values['loss']:.4g}, {norms}"


def told(shown: Sequence[tuple[Episodes, np.ndarray]]) -> str:
    """The tasks, files and numbers of a batch's episodes."""
    parts = []
    for episodes, chosen in shown:
        ranges = (
            f"{first}" if first == last else f"{first}-{last}" for first, last in runs(sorted({*map(int, chosen)}))
        )
        parts.append(f"{episodes.task} in {episodes.path}, episodes {' '.join(ranges)}")
    return " and ".join(parts)
