"""Composing the settings of a sweep's jobs, against composing each as if it were the first.

python tests/bench/settings.py [JOBS]      20 jobs in each of five rounds: under a minute

The options of a job are composed by Hydra once in a process; the values of further jobs are put in place. `tests/unit/
config/test_random_overrides.py` compares the results.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from instructrl.cli import compose as composition
from instructrl.config.training import TrainConfig

ROUNDS = 5


def seconds(jobs: int, *, as_the_first: bool) -> float:
    """Processor time of a job's composition; `as_the_first` forgets the options after each."""
    begin = time.process_time()
    for seed in range(jobs):
        if as_the_first:
            composition.forget_options()
        composition.compose(
            "train", TrainConfig, ["experiment=quickstart", f"seed={seed}", "optimizer.learning_rate=1e-3"]
        )
    return (time.process_time() - begin) / jobs


def main() -> None:
    """Print the ratio and its spread."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds(2, as_the_first=False)
    rounds = [[seconds(jobs, as_the_first=True), seconds(jobs, as_the_first=False)] for _ in range(ROUNDS)]
    ratios = sorted(after / first for first, after in rounds)
    first, after = (sorted(row[column] for row in rounds)[ROUNDS // 2] * 1000 for column in (0, 1))
    print(f"a job as the first: {first:.0f} ms; after another with its options: {after:.0f} ms")
    print(f"{ratios[ROUNDS // 2]:.2f} of the time ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
