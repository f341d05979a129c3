"""Mid-epoch checkpointing: every N steps and on preemption."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jax.experimental import multihost_utils

from instructrl import preemption
from instructrl.errors import InterruptedRun
from instructrl.training.checkpointing.manager import Checkpoints
from instructrl.training.running_mean import RunningMean
from instructrl.training.state import TrainState


class CheckpointSaver:
    """Decides when to save a checkpoint, and saves it, mid-epoch together with the metrics so far."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        every: int | None,
        on_saved: Callable[[], None] | None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Set up saving.

        Args:
            checkpoints: of the run.
            every: steps between checkpoints; None: only on preemption.
            on_saved: called after a checkpoint is completely written; training waits for both.
            check: raises if this process no longer holds the run's lease; only on the leader.
        """
        self._checkpoints, self._every, self._on_saved, self._check = checkpoints, every, on_saved, check
        self._preempted = False
        self._steps = 0  # since this start. Preemption before the first step: all processes then agree on step 1

    def should_save(self, step: int) -> bool:
        """Return True if a checkpoint is due after `step` steps. Collective: call after every step.

        Raises:
            RunError: this process no longer holds the run's lease.
        """
        self._check_lease()
        self._steps += 1
        if preemption.jax_syncs_preemption():
            preemption.forward_to_jax()
            self._preempted = multihost_utils.reached_preemption_sync_point(self._steps)
        else:
            self._preempted = preemption.pending_signal() is not None
        return self._preempted or (self._every is not None and step % self._every == 0)

    def save(self, state: TrainState, total: RunningMean, *, step: int) -> None:
        """Save within an epoch.

        Raises:
            InterruptedRun: the run was preempted, and the checkpoint is written.
            RunError: the checkpoint cannot be written.
        """
        self._checkpoints.save(state, step=step, progress=total.state_dict())
        self._wait(always=self._preempted)
        if self._preempted:
            raise InterruptedRun(f"by {preemption.pending_signal() or 'SIGTERM'}, step {step} is saved")

    def save_validated(self, state: TrainState, *, step: int, metrics: dict[str, float]) -> None:
        """Save at the end of an epoch, with validation metrics.

        Raises:
            RunError: the checkpoint cannot be written.
        """
        self._check_lease()
        self._checkpoints.save(state, step=step, metrics=metrics)
        self._wait()

    def _check_lease(self) -> None:
        if self._check is not None:
            self._check()

    def _wait(self, *, always: bool = False) -> None:
        if always or self._on_saved is not None:
            self._checkpoints.wait()
        if self._on_saved is not None:
            self._on_saved()

    @contextmanager
    def epoch_end(self, state: TrainState, total: RunningMean, *, step: int) -> Iterator[None]:
        """Context for the work at the end of an epoch: if preempted, save, so that this work is repeated on resume."""
        try:
            yield
        except InterruptedRun:
            self._preempted = True
            self.save(state, total, step=step)
