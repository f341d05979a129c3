"""python -m data_tools.collect task=push_button episodes=500: collects demonstrations from a simulator's expert.

The tasks of a set, as in task=multi_10, are collected one after another, with the same number of episodes each.
The result is a function of the settings alone, whatever the number of processes and however often it was killed:
episode i of a split shows variation i modulo their number, from the first of its own seeds with which the expert
succeeds. (On RLBench this is best effort: its planner is random and its process may crash.)
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from hydra.core.hydra_config import HydraConfig

from instructrl.cli.entry import entry_point
from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.environment import CollectConfig, TaskConfig
from instructrl.package_files import TRAIN


@entry_point("collect", CollectConfig)
def main(config: CollectConfig) -> None:
    """Collect demonstrations and print the paths of the files."""
    task = replace(
        config.task,
        episodes=config.episodes or config.task.episodes,
        val_episodes=config.val_episodes or config.task.val_episodes,
    )
    for split, paths in ensure_demonstrations(task, config.sim, config.data).items():
        for path in paths:
            print(f"{split}: {path}")
    print(f"next: {training_command(HydraConfig.get().overrides.task, task)}")


def training_command(overrides: Sequence[str], task: TaskConfig) -> str:
    """The command that trains on the demonstrations of a collection with these overrides."""
    kept = [word for word in overrides if word.partition("=")[0] not in ("episodes", "val_episodes")]
    kept = [word for word in kept if word.partition("=")[0] not in ("task.episodes", "task.val_episodes")]
    counts = [f"task.episodes={task.episodes}", f"task.val_episodes={task.val_episodes}"]
    return shlex.join([*TRAIN, *kept, *counts])


if __name__ == "__main__":
    main()
