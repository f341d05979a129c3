"""The training loop: epochs with periodic validation, rollouts and checkpoints, for any `Objective`."""

import math
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from pathlib import Path

import jax

from instructrl.cli.progress import ProgressBar, stopwatch
from instructrl.config.training import TrainConfig
from instructrl.errors import RunError
from instructrl.preemption import raise_if_preempted
from instructrl.storage.lease import exclusive_lease
from instructrl.training.checkpointing.manager import Retention, open_checkpoints
from instructrl.training.checkpointing.saver import CheckpointSaver
from instructrl.training.distributed.mesh import DATA, FSDP
from instructrl.training.distributed.multihost import is_leader, leader_first
from instructrl.training.monitoring.metric_writer import Metrics, open_metrics
from instructrl.training.monitoring.monitor import TrainMonitor
from instructrl.training.objectives.base import BatchT, DataFiles, Objective, ObjectiveKind, SplitsT
from instructrl.training.objectives.registry import OBJECTIVES
from instructrl.training.run_dir import record_moved_files
from instructrl.training.running_mean import RunningMean
from instructrl.training.state import TrainState, parameter_table
from instructrl.training.types import Params

ELSEWHERE = "choose another output_dir"
Rollout = Callable[[Params, int], dict[str, float]]  # (params, epoch) -> metrics


def train(
    config: TrainConfig,
    run: Path,
    *,
    data: DataFiles,
    rollout: Rollout | None = None,
    on_saved: Callable[[], None] | None = None,
    objective_kind: ObjectiveKind[SplitsT, BatchT] | None = None,
) -> None:
    """Train to the last epoch, from the last checkpoint if there is one.

    Args:
        config: a resolved configuration.
        run: the run directory, already opened.
        data: demonstration files of the splits `train` and `val`, one per task; empty for pretraining.
        rollout: called every `training.rollout_every` epochs with parameters and epoch.
        on_saved: called after a checkpoint is completely written; training waits for both.
        objective_kind: replaces the one that `config.objective` names.

    Raises:
        InterruptedRun: a signal requested the end; everything up to the current step is saved.
        RunError: the loss is not finite, or a checkpoint cannot be written.
        InputError: another process trains this run, or the run started with different demonstrations.
    """
    lease = exclusive_lease(run, activity="trains", busy_hint="add name=... for a separate run", write_hint=ELSEWHERE)
    kind = objective_kind or OBJECTIVES[config.objective]
    with (
        lease if is_leader() else nullcontext() as held,
        kind.open_data(config, data) as splits,
        open_checkpoints(run, keep=Retention(config.training.keep_last, config.training.keep_best)) as checkpoints,
    ):
        last, epoch_mean = checkpoints.step("last"), RunningMean()
        print("preparing data and parameters", flush=True)
        objective, state = kind.prepare(config, run, splits, resuming=last is not None)
        if is_leader():
            record_moved_files(run, config)  # whose contents have just been found to be those of the run
        raise_if_preempted()  # before the compilation of the first step
        if last is not None:
            state = checkpoints.restore(state, step=last)
            epoch_mean = RunningMean(**checkpoints.progress(last))
        print_summary(objective, state, epoch_mean)
        with open_metrics(config, run, from_step=int(state.step), unfinished=epoch_mean.count > 0) as metrics:
            check = None if held is None else held.check
            saver = CheckpointSaver(checkpoints, every=config.training.save_every, on_saved=on_saved, check=check)
            with closing(TrainMonitor(objective, run, metrics)) as monitor:
                run_epochs(objective, state, epoch_mean, metrics=metrics, monitor=monitor, rollout=rollout, saver=saver)


def print_summary(objective: Objective[BatchT], state: TrainState, epoch_mean: RunningMean) -> None:
    """Print the parameter counts, the batch's shapes and the epoch at which training starts."""
    print(parameter_table(state.params, objective.frozen))
    print(objective.summary())
    epoch, epochs = int(state.step) // objective.train.steps_per_epoch, objective.config.training.epochs
    if epoch >= epochs and not epoch_mean.count:
        print(f"already trained for {epochs} epochs; a larger training.epochs extends the run", flush=True)
        return
    status = "resumed" if epoch_mean.count or epoch else "begins"
    print(f"training {status}: epoch {epoch} of {epochs} on {describe_devices(objective)}", flush=True)


def describe_devices(objective: Objective[BatchT]) -> str:
    """Number and kind of the devices in use, and the axes of the mesh."""
    mesh, kind = objective.mesh, jax.devices()[0].device_kind
    count = jax.process_count()
    processes = f" of {count} processes" if count > 1 else ""
    if mesh.size == 1:
        return kind
    return f"{mesh.size} x {kind}{processes} (data {mesh.shape[DATA]}, fsdp {mesh.shape[FSDP]})"


def run_epochs(
    objective: Objective[BatchT],
    state: TrainState,
    epoch_mean: RunningMean,
    *,
    metrics: Metrics,
    monitor: TrainMonitor[BatchT],
    rollout: Rollout | None,
    saver: CheckpointSaver,
) -> None:
    """Train from the state's epoch to the last one; every validation is followed by a checkpoint.

    `epoch_mean`: metrics of the steps of the current epoch that are already done.
    """
    options, per_epoch = objective.config.training, objective.train.steps_per_epoch
    start, stop = int(state.step), options.epochs * per_epoch
    first = (start - (epoch_mean.count > 0)) // per_epoch + 1
    progress = ProgressBar(
        description="train",
        total=stop,
        initial=start,
        unit=objective.unit,
        each=options.batch_size,
        shown=is_leader(),
    )
    with progress, closing(objective.batches(objective.train, start, stop)) as batches:
        for epoch in range(first, options.epochs + 1):
            step, final = epoch * per_epoch, epoch == options.epochs
            steps = range(max(start, step - per_epoch), step)
            state, values = run_epoch(
                objective, state, epoch_mean, batches, steps=steps, progress=progress, monitor=monitor, saver=saver
            )
            with saver.epoch_end(state, epoch_mean, step=step):
                metrics.write("train", values, step=step, epoch=epoch)
                if rollout is not None and options.rollout_every and epoch % options.rollout_every == 0:
                    with monitor.timed("rollout"):
                        results = rollout_on_leader(rollout, objective.gathered_params(state), epoch)
                    metrics.write("rollout", results, step=step, epoch=epoch)
                with monitor.timed("validation"):
                    validates = final or epoch % options.validate_every == 0
                    with stopwatch("validation", shown=is_leader(), said=False):
                        validated = validate(objective, state) if validates else None
                    images = objective.visualize(state, step=step) if validates else {}
            if validated is not None:
                metrics.write_images(images, step=step)
                metrics.write("val", validated, step=step, epoch=epoch)
                with monitor.timed("saving"):
                    saver.save_validated(state, step=step, metrics={"loss": validated["loss"]})
            monitor.write_speed(step=step, epoch=epoch)
            if validated is not None:
                progress.write(f"{objective.epoch_line(epoch, values, validated)}  {monitor.bottleneck()}".rstrip())
            epoch_mean = RunningMean()
    objective.finish(state, step=stop)


def rollout_on_leader(rollout: Rollout, params: Params, epoch: int) -> dict[str, float]:
    """Run a rollout on process 0 while the others wait; they get an empty dict."""
    with leader_first():
        return rollout(params, epoch) if is_leader() else {}


def run_epoch(
    objective: Objective[BatchT],
    state: TrainState,
    total: RunningMean,
    batches: Generator[BatchT],
    *,
    steps: range,
    progress: ProgressBar,
    monitor: TrainMonitor[BatchT],
    saver: CheckpointSaver,
) -> tuple[TrainState, dict[str, float]]:
    """Train the remaining `steps` of an epoch; `total` holds the metrics of its earlier steps.

    Metrics are read one step late, so that the device never waits.
    """
    pending = None
    for step in steps:
        with monitor.timed("data"):
            batch = next(batches)
        with monitor.step_context(step, state, batch):
            state, values = objective.train_step(state, batch, objective.frozen)
        if pending is not None:
            total.add(monitor.on_step_end(pending, step=step - 1))
        pending = values
        progress.update()
        if total.last:
            progress.set_postfix_str(f"loss {total.last['loss']:.3f}", refresh=False)
        if saver.should_save(step + 1):
            total.add(monitor.on_step_end(pending, step=step))
            pending = None
            with monitor.timed("saving"):
                saver.save(state, total, step=step + 1)
    if pending is not None:
        total.add(monitor.on_step_end(pending, step=steps.stop - 1))
    first_step = steps.stop - objective.train.steps_per_epoch
    return state, total.means() | {"learning_rate": float(objective.learning_rate(first_step))}


def validate(objective: Objective[BatchT], state: TrainState) -> dict[str, float]:
    """Mean metrics over the validation data; with several parts (tasks, kinds of batches) also the loss of each.

    Raises:
        RunError: the loss is not finite.
    """
    total, losses = RunningMean(), {}
    for part, loader in objective.val.items():
        mean = RunningMean()
        with closing(objective.batches(loader, 0, loader.steps_per_epoch)) as batches:
            for batch in batches:
                raise_if_preempted()
                values = jax.device_get(objective.eval_step(objective.params(state), batch))
                mean.add({key: float(value) for key, value in values.items()})
        total.merge(mean)
        loss = losses[f"loss/{part}"] = mean.means()["loss"]
        if not math.isfinite(loss):
            raise RunError(f"validation loss of {part} is {loss} at step {int(state.step)}; {objective.advice}")
    return total.means() | (losses if len(losses) > 1 else {})
