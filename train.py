"""Train an agent: `python train.py experiment=quickstart`, `python train.py --help` for the choices."""

from instructrl.command import command
from instructrl.config import TrainConfig


@command("train", TrainConfig)
def main(config: TrainConfig) -> None:
    """Open the run, collect what demonstrations are missing, train."""
    from instructrl.training.run_directory import open_run

    run = open_run(config)
    from data_tools.collect import ensure_demonstrations

    data = ensure_demonstrations(config.task, config.sim, config.data)
    from instructrl.evaluation.hook import rollout_hook
    from instructrl.training.hardware import select_platform
    from instructrl.training.loop import train

    select_platform(config.hardware)
    with rollout_hook(config, run) as rollout:
        train(config, run, data=data, rollout=rollout)
    print(f"run: {run}")


if __name__ == "__main__":
    main()
