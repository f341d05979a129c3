"""Many steps: epochs over the demonstrations, looking up to validate, to roll out and to save."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from instructrl.batch import batch_spec
from instructrl.config import TrainConfig, task_names
from instructrl.data.lock import only_process
from instructrl.data.storage import Place
from instructrl.errors import RunError
from instructrl.training.checkpoint import Checkpoints, open_checkpoints
from instructrl.training.metrics import Metrics, open_metrics
from instructrl.training.preparation import Training, open_sets, prepare
from instructrl.training.state import TrainState, parameter_table

ELSEWHERE = "choose another output_dir"
Rollout = Callable[[Any, int], dict[str, float]]  # (params, epoch) -> metrics


def train(
    config: TrainConfig,
    run: Path,
    *,
    data: Mapping[str, Sequence[Place]],
    rollout: Rollout | None = None,
    saved: Callable[[], None] | None = None,
) -> None:
    """Train to the last epoch, from the last checkpoint if there is one.

    Args:
        config: a resolved configuration.
        run: the run directory, already opened.
        data: the files of the splits `train` and `val`, one for each task.
        rollout: called every `training.rollout_every` epochs with parameters and epoch.
        saved: called when a checkpoint is whole on the disk; training waits for both.

    Raises:
        RunError: the loss is not finite.
        InputError: another process trains this run, or it began with other demonstrations.
    """
    with (
        only_process(run, does="trains", remedy="add name=... for a run of its own", elsewhere=ELSEWHERE),
        open_sets(config, data) as sets,
        open_checkpoints(run) as checkpoints,
    ):
        training, state = prepare(config, run, sets)
        last = checkpoints.step("last")
        if last is not None:
            state = checkpoints.restore(state, step=last)
        announce(training, state)
        with open_metrics(config, run, from_step=int(state.step)) as metrics:
            run_epochs(training, state, checkpoints=checkpoints, metrics=metrics, rollout=rollout, saved=saved)


def announce(training: Training, state: TrainState) -> None:
    """Print the parameters, the batch's shapes and where training begins, once."""
    print(parameter_table(state.params, training.frozen))
    spec = batch_spec(training.train.sizes)
    print("batch\n" + "\n".join(f"  {key:<18}{dtype}{shape}" for key, (shape, dtype) in spec.items()))
    tasks = task_names(training.config.task)
    if len(tasks) > 1:
        shares = zip(tasks, training.train.order.shares, strict=True)
        print("sequences of an epoch\n" + "\n".join(f"  {task:<36}{share:>8,}" for task, share in shares))
    epoch, epochs = int(state.step) // training.train.steps_per_epoch, training.config.training.epochs
    where = "already trained" if epoch >= epochs else "resumed" if epoch else "begins"
    print(f"training {where}: epoch {epoch} of {epochs} on {jax.devices()[0].device_kind}", flush=True)


def run_epochs(
    training: Training,
    state: TrainState,
    *,
    checkpoints: Checkpoints,
    metrics: Metrics,
    rollout: Rollout | None,
    saved: Callable[[], None] | None,
) -> None:
    """From the state's epoch to the last; every epoch that validates ends in a checkpoint."""
    options, per_epoch = training.config.training, training.train.steps_per_epoch
    start, stop = int(state.step), options.epochs * per_epoch
    progress = tqdm(
        total=stop, initial=start, unit="step", desc="train", dynamic_ncols=True, mininterval=0.5, disable=None
    )
    with progress, closing(training.batches(training.train, start, stop)) as batches:
        for epoch in range(start // per_epoch + 1, options.epochs + 1):
            state, values = run_epoch(training, state, batches, progress=progress)
            step, final = epoch * per_epoch, epoch == options.epochs
            metrics.write("train", values, step=step, epoch=epoch)
            if rollout is not None and options.rollout_every and epoch % options.rollout_every == 0:
                metrics.write("rollout", rollout(training.params(state), epoch), step=step, epoch=epoch)
            if final or epoch % options.validate_every == 0:
                validated = validate(training, state)
                metrics.write("val", validated, step=step, epoch=epoch)
                checkpoints.save(state, step=step, metrics={"loss": validated["loss"]})
                if saved is not None:
                    checkpoints.wait()
                    saved()
                progress.write(epoch_line(epoch, values, validated))


def run_epoch(
    training: Training, state: TrainState, batches: Any, *, progress: Any
) -> tuple[TrainState, dict[str, float]]:
    """One pass over the demonstrations; metrics are read one step late, so that the device never waits."""
    begun = int(state.step)
    total = Mean()
    pending = None
    for step in range(begun, begun + training.train.steps_per_epoch):
        state, values = training.train_step(state, next(batches), training.frozen)
        if pending is not None:
            total.add(pending, step=step - 1)
        pending = values
        progress.update()
        if total.count:
            rate = training.train.sizes.batch * (progress.format_dict["rate"] or 0)
            progress.set_postfix_str(f"{total.last['loss']:.3f} loss, {rate:.0f} episodes/s", refresh=False)
    total.add(pending, step=begun + training.train.steps_per_epoch - 1)
    return state, total.means() | {"learning_rate": float(training.learning_rate(begun))}


def epoch_line(epoch: int, train: dict[str, float], val: dict[str, float]) -> str:
    """What a person wants to know of an epoch."""
    return (
        f"epoch {epoch:>4}  loss {train['loss']:.4f}  val loss {val['loss']:.4f}  "
        f"position {val['position_cm']:.2f} cm  rotation {val['rotation_deg']:.2f} degrees  "
        f"gripper {100 * val['gripper_accuracy']:.1f} %"
    )


def validate(training: Training, state: TrainState) -> dict[str, float]:
    """Mean metrics over the validation demonstrations; where there are several tasks, also the loss of each."""
    total, losses = Mean(), {}
    for task, loader in training.val.items():
        mean = Mean()
        with closing(training.batches(loader, 0, loader.steps_per_epoch)) as batches:
            for batch in batches:
                mean.add(training.eval_step(training.params(state), batch), step=int(state.step))
        total.include(mean)
        losses[f"loss/{task}"] = mean.means()["loss"]
    return total.means() | (losses if len(losses) > 1 else {})


class Mean:
    """The mean of metrics, each batch weighted by its number of keyframe steps."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.count = 0.0

    def add(self, values: Any, *, step: int) -> None:
        """Fetch one batch's metrics from the device.

        Raises:
            RunError: the loss is not finite.
        """
        self.last = {key: float(value) for key, value in jax.device_get(values).items()}
        if not math.isfinite(self.last["loss"]):
            raise RunError(
                f"loss is {self.last['loss']} at step {step}; the last checkpoint is from before; "
                "lower optimizer.learning_rate or optimizer.clip_norm and start under another name=..."
            )
        steps = self.last.pop("steps")
        self.count += steps
        for key, value in self.last.items():
            self.sums[key] = self.sums.get(key, 0.0) + value * steps

    def include(self, other: "Mean") -> None:
        """Add all that another mean is of."""
        self.count += other.count
        for key, value in other.sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {key: value / self.count for key, value in self.sums.items()}
