"""Many steps: epochs over the data, looking up to validate, to roll out and to save, whatever the objective is."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from instructrl.config import TrainConfig
from instructrl.data.owner import only_owner
from instructrl.data.storage import Place
from instructrl.errors import RunError
from instructrl.interruption import stop_if_asked
from instructrl.training.averages import Mean
from instructrl.training.checkpoint import Keep, open_checkpoints
from instructrl.training.mesh import DATA, FSDP
from instructrl.training.metrics import Metrics, open_metrics
from instructrl.training.objective import Objective
from instructrl.training.preparation import open_sets, prepare
from instructrl.training.pretraining import open_pair_sets, prepare_pretraining
from instructrl.training.processes import first_ahead, is_first
from instructrl.training.saving import Saving
from instructrl.training.seeing import Seeing
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
        data: the files of the splits `train` and `val`, one for each task; pretraining has none of them.
        rollout: called every `training.rollout_every` epochs with parameters and epoch.
        saved: called when a checkpoint is whole on the disk; training waits for both.

    Raises:
        InterruptedRun: the process was asked to end; everything up to the step at which it was is saved.
        RunError: the loss is not finite, or a checkpoint cannot be written.
        InputError: another process trains this run, or it began with other demonstrations.
    """
    alone = only_owner(run, does="trains", remedy="add name=... for a run of its own", elsewhere=ELSEWHERE)
    masked = config.objective == "masked"
    opened: Any = open_pair_sets if masked else open_sets
    prepared: Any = prepare_pretraining if masked else prepare
    with (
        alone if is_first() else nullcontext() as hold,
        opened(config, data) as sets,
        open_checkpoints(run, keep=Keep(config.training.keep_last, config.training.keep_best)) as checkpoints,
    ):
        last, so_far = checkpoints.step("last"), Mean()
        training, state = prepared(config, run, sets, resumes=last is not None)
        if last is not None:
            state = checkpoints.restore(state, step=last)
            so_far = Mean(**checkpoints.progress(last))
        announce(training, state, so_far)
        with open_metrics(config, run, from_step=int(state.step), unfinished=so_far.count > 0) as metrics:
            check = None if hold is None else hold.check
            saving = Saving(checkpoints, every=config.training.save_every, saved=saved, check=check)
            with closing(Seeing(training, run, metrics)) as seeing:
                looks: dict[str, Any] = {"metrics": metrics, "seeing": seeing, "saving": saving}
                run_epochs(training, state, so_far, rollout=rollout, **looks)


def announce(training: Objective, state: TrainState, so_far: Mean) -> None:
    """Print the parameters, the batch's shapes and where training begins, once."""
    print(parameter_table(state.params, training.frozen))
    print(training.told())
    epoch, epochs = int(state.step) // training.train.steps_per_epoch, training.config.training.epochs
    where = "resumed" if so_far.count else "already trained" if epoch >= epochs else "resumed" if epoch else "begins"
    print(f"training {where}: epoch {epoch} of {epochs} on {devices_of(training)}", flush=True)


def devices_of(training: Objective) -> str:
    """What computes, in words."""
    mesh, kind = training.mesh, jax.devices()[0].device_kind
    count = jax.process_count()
    where = f" of {count} processes" if count > 1 else ""
    return kind if mesh.size == 1 else f"{mesh.size} x {kind}{where} (data {mesh.shape[DATA]}, fsdp {mesh.shape[FSDP]})"


def run_epochs(
    training: Objective,
    state: TrainState,
    so_far: Mean,
    *,
    metrics: Metrics,
    seeing: Seeing,
    rollout: Rollout | None,
    saving: Saving,
) -> None:
    """From the state's epoch, of which `so_far` was measured, to the last; each that validates ends in a checkpoint."""
    options, per_epoch = training.config.training, training.train.steps_per_epoch
    start, stop = int(state.step), options.epochs * per_epoch
    first = (start - (so_far.count > 0)) // per_epoch + 1
    shown = {"unit": "step", "desc": "train", "dynamic_ncols": True, "mininterval": 0.5}
    progress: Any = tqdm(total=stop, initial=start, disable=None if is_first() else True, **shown)
    with progress, closing(training.batches(training.train, start, stop)) as batches:
        for epoch in range(first, options.epochs + 1):
            step, final = epoch * per_epoch, epoch == options.epochs
            looks: dict[str, Any] = {"progress": progress, "seeing": seeing, "saving": saving}
            steps = range(max(start, step - per_epoch), step)
            state, values = run_epoch(training, state, so_far, batches, steps=steps, **looks)
            with saving.looking_up(state, so_far, step=step):
                metrics.write("train", values, step=step, epoch=epoch)
                if rollout is not None and options.rollout_every and epoch % options.rollout_every == 0:
                    with seeing.spent("rollout"):
                        played = played_by_first(rollout, training.own_params(state), epoch)
                    metrics.write("rollout", played, step=step, epoch=epoch)
                with seeing.spent("validation"):
                    looks_up = final or epoch % options.validate_every == 0
                    validated = validate(training, state) if looks_up else None
                    pictures = training.look(state, step=step) if looks_up else {}
            if validated is not None:
                metrics.show(pictures, step=step)
                metrics.write("val", validated, step=step, epoch=epoch)
                with seeing.spent("saving"):
                    saving.save_validated(state, step=step, metrics={"loss": validated["loss"]})
                progress.write(training.epoch_line(epoch, values, validated))
            seeing.write_speed(step=step, epoch=epoch)
            so_far = Mean()
    training.finish(state, step=stop)


def played_by_first(rollout: Rollout, params: Any, epoch: int) -> dict[str, float]:
    """What process 0 found; nothing in the others, which wait for it."""
    with first_ahead():
        return rollout(params, epoch) if is_first() else {}


def run_epoch(
    training: Objective,
    state: TrainState,
    total: Mean,
    batches: Any,
    *,
    steps: range,
    progress: Any,
    seeing: Seeing,
    saving: Saving,
) -> tuple[TrainState, dict[str, float]]:
    """One pass over the demonstrations or the `steps` that are left of it; `total` is of those before.

    Metrics are read one step late, so that the device never waits.
    """
    pending = None
    for step in steps:
        with seeing.spent("data"):
            batch = next(batches)
        with seeing.taking(step, state, batch):
            state, values = training.train_step(state, batch, training.frozen)
        if pending is not None:
            total.add(seeing.fetched(pending, step=step - 1))
        pending = values
        progress.update()
        if total.last:
            rate = training.config.training.batch_size * (progress.format_dict["rate"] or 0)
            progress.set_postfix_str(f"{total.last['loss']:.3f} loss, {rate:.0f} {training.unit}/s", refresh=False)
        if saving.due(step + 1):
            total.add(seeing.fetched(pending, step=step))
            pending = None
            with seeing.spent("saving"):
                saving.save(state, total, step=step + 1)
    if pending is not None:
        total.add(seeing.fetched(pending, step=steps.stop - 1))
    begun = steps.stop - training.train.steps_per_epoch
    return state, total.means() | {"learning_rate": float(training.learning_rate(begun))}


def validate(training: Objective, state: TrainState) -> dict[str, float]:
    """Mean metrics over the validation data; where it has several parts, as of tasks, also the loss of each.

    Raises:
        RunError: the loss is not finite.
    """
    total, losses = Mean(), {}
    for part, loader in training.val.items():
        mean = Mean()
        with closing(training.batches(loader, 0, loader.steps_per_epoch)) as batches:
            for batch in batches:
                stop_if_asked()
                values = jax.device_get(training.eval_step(training.params(state), batch))
                mean.add({key: float(value) for key, value in values.items()})
        total.include(mean)
        loss = losses[f"loss/{part}"] = mean.means()["loss"]
        if not math.isfinite(loss):
            raise RunError(f"validation loss of {part} is {loss} at step {int(state.step)}; {training.advice}")
    return total.means() | (losses if len(losses) > 1 else {})
