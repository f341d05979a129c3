"""Saving within an epoch: now and then, and when the run is asked to end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jax.experimental import multihost_utils

from instructrl import interruption
from instructrl.errors import InterruptedRun
from instructrl.training.averages import Mean
from instructrl.training.checkpoint import Checkpoints
from instructrl.training.state import TrainState


class Saving:
    """Decides after which steps an epoch is saved with what was measured of it so far, and saves it."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        every: int | None,
        saved: Callable[[], None] | None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Where to save, and when.

        Args:
            checkpoints: of the run.
            every: steps from one checkpoint to the next; None: only when the run is asked to end.
            saved: called when a checkpoint is whole on the disk; training waits for both.
            check: raises if this process may not write there any more; for the one that owns the run.
        """
        self._checkpoints, self._every, self._saved, self._check = checkpoints, every, saved, check
        self._asked = False
        self._steps = 0  # since this start: asked to end before its first, the processes agree on the number 1

    def due(self, step: int) -> bool:
        """Whether to save after so many steps. Several processes answer alike, if each asks after every step.

        Raises:
            RunError: the run is not this process's any more.
        """
        self._check_owner()
        self._steps += 1
        if interruption.agrees():
            interruption.pass_on()
            self._asked = multihost_utils.reached_preemption_sync_point(self._steps)
        else:
            self._asked = interruption.asked() is not None
        return self._asked or (self._every is not None and step % self._every == 0)

    def save(self, state: TrainState, total: Mean, *, step: int) -> None:
        """Save an unfinished epoch.

        Raises:
            InterruptedRun: it is saved, and the run was asked to end.
            RunError: it cannot be written.
        """
        self._checkpoints.save(state, step=step, progress=total.recorded())
        self._wait(always=self._asked)
        if self._asked:
            raise InterruptedRun(f"by {interruption.asked() or 'SIGTERM'}, step {step} is saved")

    def save_validated(self, state: TrainState, *, step: int, metrics: dict[str, float]) -> None:
        """Save the end of an epoch.

        Raises:
            RunError: it cannot be written.
        """
        self._check_owner()
        self._checkpoints.save(state, step=step, metrics=metrics)
        self._wait()

    def _check_owner(self) -> None:
        if self._check is not None:
            self._check()

    def _wait(self, *, always: bool = False) -> None:
        if always or self._saved is not None:
            self._checkpoints.wait()
        if self._saved is not None:
            self._saved()

    @contextmanager
    def looking_up(self, state: TrainState, total: Mean, *, step: int) -> Iterator[None]:
        """At the end of an epoch: if what is done here is interrupted, the epoch is saved, and this is done again."""
        try:
            yield
        except InterruptedRun:
            self._asked = True
            self.save(state, total, step=step)
