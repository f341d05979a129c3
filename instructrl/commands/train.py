"""Train an agent, or pretrain its encoder. Missing demonstrations are collected first; the same command resumes.

python train.py experiment=quickstart
python train.py task=push_button head=regression policy=vit_base training.epochs=200
python train.py experiment=quickstart --multirun seed=0,1,2
python train.py experiment=pretrain_m3ae encoder=m3ae_s16 'pretraining.train=[FILE]' 'pretraining.val=[FILE]'
"""

from instructrl.cli.entry import entry_point
from instructrl.config.training import TrainConfig


@entry_point("train", TrainConfig, script="train.py")
def main(config: TrainConfig) -> float | None:
    """Collect missing demonstrations, open the run, train; return the lowest validation loss, for sweeper plugins."""
    from instructrl.storage.synced_dir import working_dir
    from instructrl.training.distributed.multihost import leader_first, process_group
    from instructrl.training.preflight import check_inputs
    from instructrl.training.run_dir import find_run, open_run, run_outputs, run_path

    with process_group(config.hardware), working_dir(run_path(config), exclusive=True) as work_dir:
        find_run(config, work_dir.folder)  # before any work: different settings are refused,
        check_inputs(config)  # missing weights,
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
        print(f"run: {work_dir.location}")
        return lowest_validation_loss(run)


if __name__ == "__main__":
    main()
