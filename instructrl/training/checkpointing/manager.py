"""Orbax checkpoints: written asynchronously and atomically; the latest and the best ones are retained."""

import itertools
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from instructrl.errors import InputError, RunError, machine_error, short_message
from instructrl.models.parameter_files import flatten_params
from instructrl.training.checkpointing.integrity import find_damage, read_marker, write_inventory
from instructrl.training.distributed.multihost import is_leader, leader_first
from instructrl.training.running_mean import MeanState
from instructrl.training.state import TrainState
from instructrl.training.types import Params

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

    UnraisableHook = Callable[[UnraisableHookArgs], object]

REMOVED = ".removed"  # old checkpoints are moved here atomically before their files are deleted
DAMAGED = "damaged_checkpoints"  # folder in the run directory
UNFINISHED = ".orbax-checkpoint-tmp"  # name suffix of a checkpoint that is being written
# Expected here: read-only access, mid-epoch checkpoints without metrics, a slow file system, our handler of arrays.
IGNORED_WARNINGS = (
    "Given directory is read only",
    "Requested `tracked_metric`",
    "Waiting for previous save",
    "Type handler registry type",
)


def is_relevant(record: logging.LogRecord) -> bool:
    """Return False for expected warnings and for tracebacks of errors that are also raised."""
    if "orbax" in record.pathname and record.levelno >= logging.ERROR:
        return False
    if record.name == "asyncio" and "exception was never retrieved" in record.getMessage():  # of further files
        return False
    return not record.getMessage().startswith(IGNORED_WARNINGS)


for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(is_relevant)


def without_closed_loops(print_error: "UnraisableHook") -> "UnraisableHook":
    """Wrap Python's hook for errors that nobody can catch, so that it says nothing of closed event loops.

    When one file of a checkpoint cannot be written, Orbax ends its event loop and raises that error; each other file
    that tensorstore was writing then finds the loop closed, and what was to be written after it is never begun.
    """

    def hook(unraisable: "UnraisableHookArgs") -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            print_error(unraisable)

    return hook


sys.unraisablehook = without_closed_loops(sys.unraisablehook)
warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)

# Devices that have the same array each write a part of it, for which Orbax slices it on each: of small arrays, of which
# an agent has hundreds, that took a third of the time of a save, and more of the first one's, which compiles slices.
MIN_PART = 2**20  # bytes
ocp.type_handlers.register_type_handler(
    jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=MIN_PART), override=True
)


class Retention(NamedTuple):
    """Numbers of checkpoints to retain; one checkpoint can count as both."""

    last: int = 1
    best: int = 1  # by validation loss


DEFAULT_RETENTION = Retention()


def validation_loss(metrics: Mapping[str, float]) -> float:
    """Metric that ranks checkpoints; the smallest is best."""
    return metrics["loss"]


def state_fields(state: TrainState) -> dict[str, PyTree]:
    """Fields of a state to save. A state without an EMA omits the field, so its format is that of a run without EMA."""
    return {key: value for key, value in state._asdict().items() if value is not None}


class Checkpoints:
    """Checkpoints of one run directory. Mid-epoch checkpoints have no metrics and are never the best."""

    def __init__(self, run: Path, *, read_only: bool = False, keep: Retention = DEFAULT_RETENTION) -> None:
        """Open the checkpoints.

        Unless `read_only`, as only the trainer does, partial writes of a killed run are deleted, and damaged
        checkpoints are moved away if there is an intact one.

        Raises:
            InputError: a checkpoint is damaged, or the directory cannot be written.
        """
        self.directory, self.read_only = run.resolve() / "checkpoints", read_only
        self._progress: MeanState | None = None  # of the checkpoint that is being written
        if self.read_only:
            self._refuse_damaged()
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
            preservation_policy=None if self.read_only else policy,
            cleanup_tmp_directories=not self.read_only,
            todelete_subdir=None if self.read_only else REMOVED,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_inventories),
            read_only=self.read_only,
            create=not self.read_only,
            save_interval_steps=0 if self.read_only else 1,
        )
        try:
            if not self.read_only:
                with leader_first():
                    if is_leader():  # jax.process_index() would wait for the others, who wait here
                        self._move_damaged()
            self._delete_removed()
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
        progress: MeanState | None = None,
    ) -> None:
        """Start an asynchronous save. An existing checkpoint of the same step is replaced.

        Args:
            state: the state to save.
            step: its step.
            metrics: validation metrics, at the end of an epoch.
            progress: JSON-serializable data needed to resume within an epoch.

        Raises:
            RunError: this checkpoint or the previous one cannot be written.
        """
        self.wait()
        with self._writing():
            if step in self.manager.all_steps():  # from an interruption at the end of the epoch
                self.manager.delete(step)
            args = ocp.args.StandardSave(state_fields(state))
            self._progress = progress
            self.manager.save(step, args=args, metrics=metrics, custom_metadata=progress)

    def wait(self) -> None:
        """Block until pending saves are written.

        Raises:
            RunError: a checkpoint cannot be written.
        """
        with self._writing():
            self.manager.wait_until_finished()
            self._delete_removed()

    def step(self, which: str = "last") -> int | None:
        """The step of the `last` or `best` checkpoint; None if there is none."""
        return self.manager.latest_step() if which == "last" else self.manager.best_step()

    def progress(self, step: int) -> MeanState:
        """The `progress` saved with a mid-epoch checkpoint; empty for one at the end of an epoch."""
        return read_marker(self.directory / str(step)).get("custom_metadata") or {}

    def restore(self, state: TrainState, *, step: int) -> TrainState:
        """The saved state, with the shapes and shardings of `state` (arrays or ShapeDtypeStructs)."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state_fields(state))
        return TrainState(**self._restore(step, ocp.args.StandardRestore(abstract)))

    def params(self, abstract: Params, *, step: int, averaged: bool) -> Params:
        """The saved parameters, or their average, as numpy arrays with the shapes of `abstract`.

        Raises:
            InputError: the checkpoint cannot be read, or lacks some of them.
        """
        part = "average" if averaged else "params"
        item = {part: abstract}
        plain = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), item)
        args = ocp.args.PyTreeRestore(item, restore_args=plain, partial_restore=True)
        params = self._restore(step, args)[part]
        missing = [name for name, leaf in flatten_params(params).items() if not isinstance(leaf, np.ndarray)]
        if missing:  # Orbax leaves them as they were asked for
            raise InputError(
                f"{self.directory / str(step)}: parameter {missing[0]} and {len(missing) - 1} more missing: written by "
                "another version of InstructRL, or of a package with its model: use that one, or train again"
            )
        return params

    def _restore(self, step: int, args: ocp.args.CheckpointArgs) -> dict[str, PyTree]:
        if self.read_only:  # else all was read when it was opened
            self._refuse(step, contents=True)
        try:
            return self.manager.restore(step, args=args)
        except (OSError, ValueError, KeyError) as error:
            folder = self.directory / str(step)
            if not folder.exists():
                raise InputError(f"{folder}: replaced by a newer checkpoint just now; run the command again") from None
            reason = f"cannot be read as this run's checkpoint ({short_message(error)})"
            raise self._unusable(step, reason) from None

    def close(self) -> None:
        """Finish pending saves and close.

        Raises:
            RunError: a checkpoint cannot be written.
        """
        with self._writing():
            self.manager.close()
            self._delete_removed()

    def _steps(self) -> list[int]:
        """Steps of all checkpoints, including damaged ones."""
        folders = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(int(folder.name) for folder in folders if folder.name.isdecimal() and folder.is_dir())

    def _refuse_damaged(self) -> None:
        """Raise InputError if a checkpoint is damaged, since the latest and the best must not depend on the damage."""
        for step in reversed(self._steps()):
            self._refuse(step, contents=False)

    def _refuse(self, step: int, *, contents: bool) -> None:
        damage = find_damage(self.directory / str(step), contents=contents)
        if damage is not None and (self.directory / str(step)).exists():  # else a newer one has just replaced it
            raise self._unusable(step, f"damaged ({damage})")

    def _move_damaged(self) -> None:
        """Move damaged checkpoints out of the way of the newest intact one, from which training goes on.

        Raises:
            InputError: none is intact.
        """
        damaged, intact = dict[int, str](), None
        for step in reversed(self._steps()):  # the one that is gone on with is read as a whole, the others when needed
            damage = find_damage(self.directory / str(step), contents=intact is None)
            if damage is not None:
                damaged[step] = damage
            elif intact is None:
                intact = step
        if damaged and intact is None:
            step, damage = next(iter(damaged.items()))
            raise self._unusable(step, f"damaged ({damage})")
        for step, damage in damaged.items():
            folder, moved = self.directory / str(step), unused_path(self.directory.parent / DAMAGED / str(step))
            moved.parent.mkdir(exist_ok=True)
            folder.rename(moved)
            print(f"{folder}: damaged ({damage}); moved to {moved}, and step {intact} is used", flush=True)

    def _unusable(self, step: int, problem: str) -> InputError:
        others = [other for other in self._steps() if other != step]
        advice = (
            f"train again: the same command resumes from step {others[-1]}"
            if others
            else "remove that folder to start from scratch: there is no other checkpoint"
        )
        return InputError(f"{self.directory / str(step)}: {problem}; {advice}")

    def _write_inventories(self) -> None:
        """Orbax callback: all files of a checkpoint are written, but it is not committed yet."""
        if jax.process_index() == 0:
            for folder in self.directory.glob(f"*{UNFINISHED}"):
                write_inventory(folder, self._progress)

    def _delete_removed(self) -> None:
        """Delete the files of old checkpoints."""
        if not self.read_only and jax.process_index() == 0:
            shutil.rmtree(self.directory / REMOVED, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore raises ValueError when the disk is full
            reason = machine_error(error) or short_message(error)
            raise RunError(
                f"{self.directory}: cannot be written ({reason}); earlier checkpoints are intact: "
                "make room and run the same command again"
            ) from None


def unused_path(path: Path) -> Path:
    """The path, with a number if something is there already."""
    return next(
        candidate
        for number in itertools.count()
        if not (candidate := path.with_name(f"{path.name}-{number}" if number else path.name)).exists()
    )


@contextmanager
def open_checkpoints(
    run: Path, *, read_only: bool = False, keep: Retention = DEFAULT_RETENTION
) -> Iterator[Checkpoints]:
    """Open a run directory's checkpoints; on exit all saves are complete. A `read_only` run may be in training."""
    checkpoints = Checkpoints(run, read_only=read_only, keep=keep)
    try:
        yield checkpoints
    except BaseException:
        with suppress(RunError):  # the first error is the reason of the others
            checkpoints.close()
        raise
    checkpoints.close()
