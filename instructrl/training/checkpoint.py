"""Checkpoints with Orbax: written in the background, whole or not at all, the last and the best kept."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from instructrl.errors import InputError, RunError
from instructrl.training.state import TrainState

# Orbax warns of every evaluation that its reader only reads.
logging.getLogger("absl").addFilter(lambda record: not record.getMessage().startswith("Given directory is read only"))


def validation_loss(metrics: Any) -> float:
    """What makes a checkpoint the best: the smaller, the better."""
    return metrics["loss"]


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run: Path, *, read_only: bool = False) -> None:
        """Without `read_only`, what a killed run left half written is removed: only its trainer may do that."""
        self.directory = run.resolve() / "checkpoints"
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(get_metric_fn=lambda metrics: -validation_loss(metrics), n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=validation_loss,
            best_mode="min",
            preservation_policy=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        self.manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, state: TrainState, *, step: int, metrics: dict[str, float]) -> None:
        """Begin to save; returns before the files are written.

        Raises:
            RunError: this checkpoint, or the one before it, cannot be written.
        """
        with self._writing():
            self.manager.save(step, args=ocp.args.StandardSave(state._asdict()), metrics=metrics)

    def wait(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
            RunError: it cannot be written.
        """
        with self._writing():
            self.manager.wait_until_finished()

    def step(self, which: str = "last") -> int | None:
        """The step of the `last` or `best` checkpoint, None before the first."""
        return self.manager.latest_step() if which == "last" else self.manager.best_step()

    def restore(self, state: TrainState, *, step: int) -> TrainState:
        """The saved state, in the shapes and on the devices of `state` (arrays or their descriptions)."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state._asdict())
        return TrainState(**self._restore(step, ocp.args.StandardRestore(abstract)))

    def params(self, abstract: Any, *, step: int) -> Any:
        """The saved parameters alone, as numpy arrays in the shapes that `abstract` describes."""
        item = {"params": abstract}
        plain = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item)
        args = ocp.args.PyTreeRestore(item, restore_args=plain, partial_restore=True)
        return self._restore(step, args)["params"]

    def _restore(self, step: int, args: Any) -> Any:
        try:
            return self.manager.restore(step, args=args)
        except (OSError, ValueError, KeyError) as error:
            folder = self.directory / str(step)
            if not folder.exists():
                raise InputError(f"{folder}: replaced by a newer checkpoint just now; give the command again") from None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"{folder}: cannot be read as this run's checkpoint ({reason}); "
                "remove that folder to go on from an earlier one"
            ) from None

    def close(self) -> None:
        """Wait for what is being written.

        Raises:
            RunError: it cannot be written.
        """
        with self._writing():
            self.manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore says a full disk with the latter
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RunError(
                f"{self.directory}: cannot be written ({reason}); earlier checkpoints are whole: "
                "make room and give the same command again"
            ) from None


@contextmanager
def open_checkpoints(run: Path, *, read_only: bool = False) -> Iterator[Checkpoints]:
    """The checkpoints of a run directory, which may be in training if `read_only`; on leaving, all is written."""
    checkpoints = Checkpoints(run, read_only=read_only)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
