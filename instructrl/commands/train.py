"""Train an agent, or pretrain its encoder. Missing demonstrations are collected first; the same command resumes.

python train.py experiment=quickstart
python train.py task=push_button head=regression policy=vit_base training.epochs=200
python train.py experiment=quickstart --multirun seed=0,1,2
python train.py experiment=pretrain_m3ae encoder=m3ae_s16 'pretraining.train=[FILE]' 'pretraining.val=[FILE]'
"""

import shlex
from pathlib import Path

from instructrl.cli.entry import entry_point
from instructrl.cli.progress import stopwatch
from instructrl.config.training import TrainConfig
from instructrl.package_files import EVALUATE, TRAIN
from instructrl.storage.paths import StoragePath


@entry_point("train", TrainConfig, script="train.py")
def main(config: TrainConfig) -> float | None:
    """Collect missing demonstrations, open the run, train; return the lowest validation loss, for sweeper plugins."""
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
            from instructrl.training.distributed.platform import select_platform
            from instructrl.training.parameters.warm_start import check_initialization

        rollouts = config.objective == "behavior_cloning" and config.training.rollout_every > 0
        renders = rollouts and config.sim.renderer != "raycast"
        select_platform(config.hardware, beside_renderers=renders)  # a missing device,
        check_devices(config.hardware, batch_size=config.training.batch_size)  # too many devices for a batch,
        check_initialization(config, work_dir.folder)  # and incompatible initial parameters
        with leader_first():
            cloning = config.objective == "behavior_cloning"
            outputs = run_outputs(config, work_dir.folder)
            data = ensure_demonstrations(config.task, config.sim, config.data, outputs=outputs) if cloning else {}
            run = open_run(config, work_dir.folder)
        from instructrl.evaluation.rollout_callback import rollout_callback
        from instructrl.training.monitoring.metric_files import lowest_validation_loss
        from instructrl.training.train_loop import train

        with rollout_callback(config, run) as rollout:
            train(config, run, data=data, rollout=rollout, on_saved=work_dir.push)
        print("\n".join([f"run: {work_dir.location}", *next_steps(config, work_dir.location, run)]))
        return lowest_validation_loss(run)


def next_steps(config: TrainConfig, location: StoragePath, run: Path) -> list[str]:
    """Lines with the commands that follow a training: the upload of an offline log, and what uses its result.

    Args:
        config: of the run.
        location: the run directory as it was named.
        run: local copy of it.
    """
    from instructrl.models.weight_files import ENCODER_FILE

    offline = sorted(run.glob("wandb/offline-run-*")) if config.wandb.mode == "offline" else []
    lines = [f"upload: {shlex.join(['wandb', 'sync', *(str(location / 'wandb' / one.name) for one in offline)])}"]
    if config.objective == "masked_pretraining":
        words = [f"encoder={config.encoder.name}", f"encoder.weights={location / ENCODER_FILE}"]
        command = shlex.join([*TRAIN, *words])
    else:
        command = shlex.join([*EVALUATE, f"run={location}"])
    return [*(lines if offline else []), f"next: {command}"]


if __name__ == "__main__":
    main()
