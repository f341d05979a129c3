"""Checkpoints with Orbax: written in the background, whole or not at all, the last and the best kept."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from instructrl.errors import InputError, RunError
from instructrl.training.inventory import damage, read_marker, write_inventory
from instructrl.training.state import TrainState

REMOVED = ".removed"  # where old checkpoints go in one step, before their files are removed one by one
UNFINISHED = ".orbax-checkpoint-tmp"  # ends the name of a checkpoint that is being written
# What Orbax warns of without need: a reader that reads, a checkpoint within an epoch, and a slow disk.
UNTOLD = ("Given directory is read only", "Requested `tracked_metric`", "Waiting for previous save")


def worth_saying(record: logging.LogRecord) -> bool:
    """Not a failure's traceback: it is raised, and becomes one line."""
    if "orbax" in record.pathname and record.levelno >= logging.ERROR:
        return False
    return not record.getMessage().startswith(UNTOLD)


logging.getLogger("absl").addFilter(worth_saying)


class Keep(NamedTuple):
    """How many checkpoints are kept; one can be both."""

    last: int = 1
    best: int = 1  # by validation loss


KEEP = Keep()


def validation_loss(metrics: Any) -> float:
    """What makes a checkpoint the best: the smaller, the better."""
    return metrics["loss"]


def stored(state: TrainState) -> dict[str, Any]:
    """A state as it is saved: without an average, where none is kept, it looks as if there had never been one."""
    return {key: value for key, value in state._asdict().items() if value is not None}


class Checkpoints:
    """The checkpoints of one run directory. One saved within an epoch has no metrics, and is never the best."""

    def __init__(self, run: Path, *, read_only: bool = False, keep: Keep = KEEP) -> None:
        """Without `read_only`, what a killed run left half written is removed: only its trainer may do that.

        Raises:
            InputError: a checkpoint is damaged, or the directory cannot be written.
        """
        self.directory, self.reads = run.resolve() / "checkpoints", read_only
        self._check()
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep.last),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: -validation_loss(metrics),
                    n=keep.best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=validation_loss,
            best_mode="min",
            preservation_policy=None if self.reads else policy,
            cleanup_tmp_directories=not self.reads,
            todelete_subdir=None if self.reads else REMOVED,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._take_stock),
            read_only=self.reads,
            create=not self.reads,
            save_interval_steps=0 if self.reads else 1,
        )
        try:
            self._clear()
            self.manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise InputError(
                f"{self.directory}: cannot be written ({error.strerror}); make room or choose another output_dir"
            ) from None

    def save(
        self,
        state: TrainState,
        *,
        step: int,
        metrics: dict[str, float] | None = None,
        progress: dict[str, Any] | None = None,
    ) -> None:
        """Begin to save; returns before the files are written. One of the same step, saved before, is replaced.

        Args:
            state: what is saved.
            step: its step.
            metrics: of its validation, at the end of an epoch.
            progress: what has to be known to go on within an epoch; plain numbers, lists and dicts.

        Raises:
            RunError: this checkpoint, or the one before it, cannot be written.
        """
        self.wait()
        with self._writing():
            if step in self.manager.all_steps():  # of an epoch that was interrupted at its end
                self.manager.delete(step)
            args = ocp.args.StandardSave(stored(state))
            self.manager.save(step, args=args, metrics=metrics, custom_metadata=progress)

    def wait(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
            RunError: it cannot be written.
        """
        with self._writing():
            self.manager.wait_until_finished()
            self._clear()

    def step(self, which: str = "last") -> int | None:
        """The step of the `last` or `best` checkpoint, None before the first."""
        return self.manager.latest_step() if which == "last" else self.manager.best_step()

    def progress(self, step: int) -> dict[str, Any]:
        """What was saved with a checkpoint within an epoch; empty at its end."""
        return read_marker(self.directory / str(step)).get("custom_metadata") or {}

    def restore(self, state: TrainState, *, step: int) -> TrainState:
        """The saved state, in the shapes and on the devices of `state` (arrays or their descriptions)."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, stored(state))
        return TrainState(**self._restore(step, ocp.args.StandardRestore(abstract)))

    def params(self, abstract: Any, *, step: int, averaged: bool) -> Any:
        """The saved parameters alone, or their average, as numpy arrays in the shapes that `abstract` describes."""
        part = "average" if averaged else "params"
        item = {part: abstract}
        plain = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item)
        args = ocp.args.PyTreeRestore(item, restore_args=plain, partial_restore=True)
        return self._restore(step, args)[part]

    def _restore(self, step: int, args: Any) -> Any:
        try:
            return self.manager.restore(step, args=args)
        except (OSError, ValueError, KeyError) as error:
            folder = self.directory / str(step)
            if not folder.exists():
                raise InputError(f"{folder}: replaced by a newer checkpoint just now; give the command again") from None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise self._unusable(step, f"cannot be read as this run's checkpoint ({reason})") from None

    def close(self) -> None:
        """Wait for what is being written.

        Raises:
            RunError: it cannot be written.
        """
        with self._writing():
            self.manager.close()
            self._clear()

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, also of damaged ones."""
        folders = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(int(folder.name) for folder in folders if folder.name.isdecimal() and folder.is_dir())

    def _check(self) -> None:
        """Raise InputError if a checkpoint is damaged: which is the last and which the best must not depend on it."""
        for step in reversed(self._steps()):
            wrong = damage(self.directory / str(step))
            if wrong is not None and (self.directory / str(step)).exists():  # not replaced just now
                raise self._unusable(step, f"damaged ({wrong})")

    def _unusable(self, step: int, what: str) -> InputError:
        others = [other for other in self._steps() if other != step]
        then = f"go on with that of step {others[-1]}" if others else "begin anew: there is no other checkpoint"
        return InputError(f"{self.directory / str(step)}: {what}; remove that folder to {then}")

    def _take_stock(self) -> None:
        """Called when all files of a checkpoint are written, before it counts."""
        if jax.process_index() == 0:
            for folder in self.directory.glob(f"*{UNFINISHED}"):
                write_inventory(folder)

    def _clear(self) -> None:
        """Remove the files of old checkpoints."""
        if not self.reads and jax.process_index() == 0:
            shutil.rmtree(self.directory / REMOVED, ignore_errors=True)

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
def open_checkpoints(run: Path, *, read_only: bool = False, keep: Keep = KEEP) -> Iterator[Checkpoints]:
    """The checkpoints of a run directory, which may be in training if `read_only`; on leaving, all is written."""
    checkpoints = Checkpoints(run, read_only=read_only, keep=keep)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
