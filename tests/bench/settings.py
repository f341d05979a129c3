"""Composing the settings of a sweep's jobs, against composing each as if it were the first.

The options of a job are composed by Hydra once in a process; the values of further jobs are put in place. `tests/unit/
config/test_random_overrides.py` compares the results.
"""

import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from instructrl.cli import compose as composition
from instructrl.config.training import TrainConfig
from tests.fixtures.rounds import alternate, processor, ratio


def main() -> None:
    """Print the ratio of processor times and its spread."""
    seeds = count()

    def compose() -> None:
        words = ["experiment=quickstart", f"seed={next(seeds)}", "optimizer.learning_rate=1e-3"]
        composition.compose("train", TrainConfig, words)

    def compose_as_the_first() -> None:
        composition.forget_options()
        compose()

    found = alternate({"first": compose_as_the_first, "after": compose})
    first, after = (processor(found[name]) for name in ("first", "after"))
    print(f"a job as the first: {1e3 * np.median(first):.0f} ms; after another: {1e3 * np.median(after):.0f} ms")
    print(f"{ratio(after, first)} of the time")


if __name__ == "__main__":
    main()
