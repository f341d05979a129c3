"""python -m data_tools.collect task=push_button episodes=500: collects demonstrations from a simulator's expert.

The tasks of a set, as in task=multi_10, are collected one after another, with the same number of episodes each.
The result is a function of the settings alone, whatever the number of processes and however often it was killed:
episode i of a split shows variation i modulo their number, from the first of its own seeds with which the expert
succeeds. (On RLBench this is best effort: its planner is random and its process may crash.)
"""

from dataclasses import replace

from instructrl.cli.entry import entry_point
from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.environment import CollectConfig


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


if __name__ == "__main__":
    main()
