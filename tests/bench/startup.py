"""Start of the quickstart's training with an empty compilation cache, and with the one that a first start has filled.

python tests/bench/startup.py [OVERRIDES]      about three minutes

- `cold`, `warm`: until the metrics of the first step are known; goals 20 and 6 seconds of the processor.
- `help`, `error`: `train.py --help`, and an invalid setting; goals 1.5 and 2 seconds of the processor.

All of them are processes of their own, whose processor time is taken.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fixtures.rounds import alternate, processor, ratio
from tests.paths import ROOT

TASK = ("task=reach_target", "task.episodes=16", "task.val_episodes=16")
ROUNDS = 3
GOALS = {"cold": 20.0, "warm": 6.0, "help": 1.5, "error": 2.0}  # seconds of the processor
FIRST_STEP = """
import os
from instructrl.commands.train import main
from instructrl.training import train_loop

train_loop.validate = lambda *_: os._exit(0)  # what follows the only step
main()
"""


def run(*command: str, code: int = 0) -> None:
    """Run Python, which must end with exit code `code`.

    Raises:
        SystemExit: it ended with another one.
    """
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def main() -> None:
    """Print one line per kind of start, and the ratio of a warm start to a cold one."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["experiment=quickstart", *TASK, f"data.dir={folder}/data", *sys.argv[1:]]
        run("-m", "data_tools.collect", *TASK, f"data.dir={folder}/data", "sim.image_size=96")
        numbers = count()

        def train(cache: str) -> None:
            more = [f"output_dir={folder}", f"name={next(numbers)}", f"hardware.compilation_cache={folder}/{cache}"]
            run("-c", FIRST_STEP, *words, "training.epochs=1", "optimizer.warmup_epochs=0", *more)

        found = alternate(
            {
                "cold": lambda: train(f"compiled-{next(numbers)}"),
                "warm": lambda: train("compiled"),
                "help": partial(run, "train.py", "--help"),
                "error": partial(run, "train.py", "policy.depth=0", code=2),
            },
            rounds=ROUNDS,
        )
    took = {name: processor(each) for name, each in found.items()}
    for name, seconds in took.items():
        share = ratio(seconds, np.array(GOALS[name]))
        print(f"{name:<6}{np.median(seconds):>7.2f} s of the processor, {share} of the goal")
    print(f"a warm start takes {ratio(took['warm'], took['cold'])} of a cold one")


if __name__ == "__main__":
    main()
