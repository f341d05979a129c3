"""python -m data_tools.collect task=push_button episodes=500: collects demonstrations from a simulator's expert.

The tasks of a set, as in task=multi_10, are collected one after another, with the same number of episodes each.
The result is a function of the settings alone, whatever the number of processes and however often it was killed:
episode i of a split shows variation i modulo their number, from the first of its own seeds with which the expert
succeeds. (On RLBench this is best effort: its planner is random and its process may crash.)
With jobs=16 launcher=slurm_gpu jobs of the launcher collect a share of the episodes each, and a last one merges them.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from hydra.core.hydra_config import HydraConfig

from instructrl.cli.entry import entry_point
from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.environment import CollectConfig, TaskConfig
from instructrl.config.share import share_of
from instructrl.package_files import TRAIN


@entry_point("collect", CollectConfig)
def main(config: CollectConfig) -> None:
    """Collect demonstrations and print the paths of the files."""
    task = replace(config.task, episodes=config.counts["train"], val_episodes=config.counts["val"])
    share = share_of(config)
    files = ensure_demonstrations(task, config.sim, config.data, share=share)
    if share is not None:
        print(f"job {share.job} of {share.jobs} has collected its episodes; the command with jobs=1 merges them")
        return
    for split, paths in files.items():
        for path in paths:
            print(f"{split}: {path}")
    print(f"next: {training_command(HydraConfig.get().overrides.task, task)}")


def training_command(overrides: Sequence[str], task: TaskConfig) -> str:
    """The command that trains on the demonstrations of a collection with these overrides."""
    own = ("episodes", "val_episodes", "task.episodes", "task.val_episodes", "jobs", "job")
    kept = [word for word in overrides if word.partition("=")[0] not in own]
    counts = [f"task.episodes={task.episodes}", f"task.val_episodes={task.val_episodes}"]
    return shlex.join([*TRAIN, *kept, *counts])


if __name__ == "__main__":
    main()
