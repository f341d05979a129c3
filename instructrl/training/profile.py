"""A trace of some steps, as jax's profiler records it."""

from collections.abc import Sequence
from pathlib import Path

import jax

FOLDER = "profile"  # in the run directory


class Profile:
    """Traces from the first to the last step of a window, as far as they are taken."""

    def __init__(self, window: Sequence[int] | None, run: Path) -> None:
        self._first, self._last = window or (0, -1)
        self._folder = run / FOLDER
        self._begun: int | None = None

    def before(self, step: int) -> None:
        """Called before a step is taken."""
        if self._begun is None and self._first <= step <= self._last:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._begun = step

    def after(self, step: int) -> str | None:
        """Called when a step's numbers have come; where the trace lies, once it is whole."""
        if self._begun is None or step < self._last:
            return None
        begun, self._begun, self._last = self._begun, None, -1
        jax.profiler.stop_trace()
        where = sorted(self._folder.rglob("perfetto_trace.json.gz"))[-1]
        return (
            f"profile: steps {begun} to {step} in {where}: open it at https://ui.perfetto.dev, or look at "
            f"{self._folder} with xprof (pip install xprof; xprof --logdir {self._folder})"
        )

    def close(self) -> None:
        """End a trace that was not completed."""
        if self._begun is not None:
            self._begun = None
            jax.profiler.stop_trace()
