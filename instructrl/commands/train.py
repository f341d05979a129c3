"""Train an agent, or pretrain its encoder. Missing demonstrations are collected first; the same command resumes.

python train.py experiment=quickstart
python train.py task=push_button head=regression policy=vit_base training.epochs=200
python train.py experiment=quickstart --multirun seed=0,1,2
python train.py experiment=pretrain_m3ae encoder=m3ae_s16 'pretraining.train=[FILE]' 'pretraining.val=[FILE]'
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from instructrl.cli.entry import entry_point
from instructrl.cli.progress import stopwatch
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.package_files import EVALUATE, TRAIN
from instructrl.storage.paths import StoragePath


@entry_point("train", TrainConfig, script="train.py")
def main(config: TrainConfig) -> float | None:
    """Collect missing demonstrations, open the run, train; return `training.objective`, for sweeper plugins."""
    from instructrl.storage.synced_dir import working_dir
    from instructrl.training.distributed.multihost import leader_first, process_group
    from instructrl.training.preflight import check_inputs
    from instructrl.training.run_dir import find_run, open_run, run_outputs, run_path

    with process_group(config.hardware), working_dir(run_path(config), exclusive=True) as work_dir:
        print(f"training {config.name} in {work_dir.location}", flush=True)
        find_run(config, work_dir.folder)  # before any work: different settings are refused,
        check_inputs(config)  # missing weights,
        with stopwatch("loading jax", said=False):
            from instructrl.collection.collect import ensure_demonstrations
            from instructrl.training.distributed.mesh import check_devices
            from instructrl.training.distributed.platform import check_precision, select_platform
            from instructrl.training.model_factory import check_modules
            from instructrl.training.parameters.warm_start import check_initialization

        rollouts = config.objective == "behavior_cloning" and config.training.rollout_every > 0
        renders = rollouts and config.sim.renderer != "raycast"
        select_platform(config.hardware, beside_renderers=renders)  # a missing device,
        check_precision()  # results that are others than those of everybody else,
        check_devices(config.hardware, batch_size=config.training.batch_size)  # too many devices for a batch,
        check_initialization(config, work_dir.folder)  # incompatible initial parameters,
        cloning = config.objective == "behavior_cloning"
        if cloning:
            check_modules(config)  # and faulty modules of other packages
        with leader_first():
            outputs = run_outputs(config, work_dir.folder)
            if cloning:
                check_recorded_frames(config)
            data = ensure_demonstrations(config.task, config.sim, config.data, outputs=outputs) if cloning else {}
            run = open_run(config, work_dir.folder)
        from instructrl.evaluation.rollout_callback import rollout_callback
        from instructrl.training.monitoring.metric_files import best_value
        from instructrl.training.train_loop import train

        with rollout_callback(config, run) as rollout:
            train(config, run, data=data, rollout=rollout, on_saved=work_dir.push)
        print("\n".join([f"run: {work_dir.location}", *next_steps(config, work_dir.location, run)]))
        return best_value(run, config.training.objective)


def check_recorded_frames(config: TrainConfig) -> None:
    """Raise InputError if missing demonstrations would be collected without the frames that are to be observed."""
    from instructrl.collection.collect import single_tasks
    from instructrl.collection.target_file import required_splits

    share, sim = config.training.intermediate_share, config.sim
    if not share or sim.intermediate_frames is not None:
        return
    found = [split for task in single_tasks(config.task) for split in required_splits(task, sim, config.data)]
    for split in found:
        if split.header.split == "train" and split.is_missing():
            recorded = "add sim.intermediate_frames=5, " if sim.records_intermediate_frames else ""
            raise InputError(
                f"training.intermediate_share: found {share:g}, but {split.path} lacks demonstrations, which would be "
                f"collected without frames between keyframes; {recorded}convert some with intermediate_frames=5, or "
                "set it to 0"
            )


def next_steps(config: TrainConfig, location: StoragePath, run: Path) -> list[str]:
    """Lines with the commands that follow a training: the upload of an offline log, and what uses its result.

    Args:
        config: of the run.
        location: the run directory as it was named.
        run: local copy of it.
    """
    from instructrl.models.weight_files import ENCODER_FILE

    lines = [f"{purpose}: {shlex.join(command)}" for purpose, command in tracker_commands(config, location, run)]
    if config.objective == "masked_pretraining":
        words = [f"encoder={config.encoder.name}", f"encoder.weights={location / ENCODER_FILE}"]
        command = shlex.join([*TRAIN, *words])
    else:
        command = shlex.join([*EVALUATE, f"run={location}"])
    return [*lines, f"next: {command}"]


def tracker_commands(config: TrainConfig, location: StoragePath, run: Path) -> Iterator[tuple[str, list[str]]]:
    """Purpose and command line of what shows or uploads the logs of the run's trackers (see `next_steps`)."""
    from instructrl.training.monitoring.trackers import tensorboard, weights_and_biases

    offline = weights_and_biases.offline_runs(run) if config.wandb.mode == "offline" else []
    if offline:
        yield "upload", ["wandb", "sync", *(str(location / weights_and_biases.FOLDER / one.name) for one in offline)]
    if config.tensorboard.enabled:
        yield "curves", ["tensorboard", "--logdir", str(location / tensorboard.FOLDER)]
    if config.trackio.enabled and config.trackio.space is None:
        yield "curves", ["trackio", "show", "--project", config.trackio.project]


if __name__ == "__main__":
    main()
