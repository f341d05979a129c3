"""Guard that stops training on a non-finite loss or gradient."""

import math
from collections import deque
from collections.abc import Callable, Mapping

from instructrl.errors import RunError

HISTORY = 3  # earlier steps reported with a non-finite one

NORMS = ("gradient_norm", "parameter_norm", "update_norm")


class NonFiniteGuard:
    """Checks the metrics of every step, in order."""

    def __init__(self, describe_batch: Callable[[int], str], *, advice: str) -> None:
        """Set up the guard; `describe_batch` and `advice` enter the error message (see `Objective`)."""
        self._describe_batch, self._advice = describe_batch, advice
        self._history: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=HISTORY)

    def check(self, values: Mapping[str, float], *, step: int) -> None:
        """Check a step's metrics and remember them.

        Raises:
            RunError: the loss or the gradient norm is not finite.
        """
        invalid = [name for name in ("loss", "gradient_norm") if not math.isfinite(values.get(name, 0.0))]
        if invalid:
            quantity = invalid[0].replace("_", " ")
            earlier = "; ".join(format_norms(*entry) for entry in self._history) or "no other step since the start"
            raise RunError(
                f"{quantity} is {values[invalid[0]]} at step {step} ({format_norms(step, values)}); "
                f"steps before: {earlier}; batch: {self._describe_batch(step)}; {self._advice}"
            )
        self._history.append((step, values))


def format_norms(step: int, values: Mapping[str, float]) -> str:
    """Format a step's loss and norms as text."""
    norms = ", ".join(f"{name.replace('_', ' ')} {values[name]:.4g}" for name in NORMS if name in values)
    return f"step {step}: loss {values['loss']:.4g}, {norms}"
