"""Train an agent, or pretrain its encoder. Missing demonstrations are collected first; the same command again goes on.

python train.py experiment=quickstart
python train.py task=push_button head=regression policy=vit_base training.epochs=200
python train.py experiment=quickstart --multirun seed=0,1,2
python train.py experiment=pretrain_m3ae encoder=m3ae_s16 'pretraining.train=[FILE]' 'pretraining.val=[FILE]'
"""

from instructrl.command import command
from instructrl.config import TrainConfig


@command("train", TrainConfig)
def main(config: TrainConfig) -> None:
    """Collect what demonstrations are missing, open the run, train."""
    from instructrl.data.mirror import workshop
    from instructrl.training.inputs import check_inputs
    from instructrl.training.processes import first_ahead, together
    from instructrl.training.run_directory import find_run, open_run, run_place

    with together(config.hardware), workshop(run_place(config), alone=True) as shop:
        find_run(config, shop.folder)  # other settings are refused before any work is done
        check_inputs(config)  # and so are weights that are not there
        from data_tools.collect import ensure_demonstrations
        from instructrl.training.beginning import check_beginning
        from instructrl.training.hardware import select_platform
        from instructrl.training.mesh import check_devices

        select_platform(config.hardware)  # and a device that is not there
        check_devices(config.hardware, batch_size=config.training.batch_size)  # or too many for a batch
        check_beginning(config, shop.folder)  # and parameters to begin with that do not fit
        with first_ahead():
            clones = config.objective == "cloning"
            data = ensure_demonstrations(config.task, config.sim, config.data) if clones else {}
            run = open_run(config, shop.folder)
        from instructrl.evaluation.hook import rollout_hook
        from instructrl.training.loop import train

        with rollout_hook(config, run) as rollout:
            train(config, run, data=data, rollout=rollout, saved=shop.push)
        print(f"run: {shop.place}")


if __name__ == "__main__":
    main()
