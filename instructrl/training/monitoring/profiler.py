"""Traces of a range of steps with JAX's profiler."""

from collections.abc import Sequence
from pathlib import Path

import jax

FOLDER = "profile"  # in the run directory


class ProfilerWindow:
    """Traces the steps of a window; steps that are not trained in this process are skipped."""

    def __init__(self, window: Sequence[int] | None, run: Path) -> None:
        self._first, self._last = window or (0, -1)
        self._folder = run / FOLDER
        self._traced_from: int | None = None

    def before_step(self, step: int) -> None:
        """Start tracing if the window begins; call before a train step."""
        if self._traced_from is None and self._first <= step <= self._last:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._traced_from = step

    def after_step(self, step: int) -> str | None:
        """Stop tracing if the window ends; returns a message with the trace's path. Call once metrics are fetched."""
        if self._traced_from is None or step < self._last:
            return None
        first, self._traced_from, self._last = self._traced_from, None, -1
        jax.profiler.stop_trace()
        trace = sorted(self._folder.rglob("perfetto_trace.json.gz"))[-1]
        return (
            f"profile: steps {first} to {step} in {trace}: open it at https://ui.perfetto.dev, or view "
            f"{self._folder} with xprof (pip install xprof; xprof --logdir {self._folder})"
        )

    def close(self) -> None:
        """Stop an incomplete trace."""
        if self._traced_from is not None:
            self._traced_from = None
            jax.profiler.stop_trace()
