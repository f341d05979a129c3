"""Pretraining by the engine against the same compiled step in a bare loop. Prints rates and their ratio.

python tests/bench/pretraining.py [OVERRIDES]      pretrain_tiny, batch 64, on the CPU: about three minutes

- `bare`: forward, backward and update, again and again on batches that lie on the device already.
- `engine`: the loop of `train.py`: pictures read and decoded, batches sent, numbers fetched and written.
- The rounds of both take turns, since machines are shared; the best of each counts. Goal: 0.85.

The pictures are JPEGs of noise as smooth as a photograph's, of the size that is asked for.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from instructrl.command import compose
from instructrl.config import TrainConfig, canvas_size
from instructrl.data.pairs_file import write_pairs
from instructrl.data.pictures import encoded
from instructrl.training.averages import Mean
from instructrl.training.checkpoint import open_checkpoints
from instructrl.training.loop import run_epoch
from instructrl.training.metrics import open_metrics
from instructrl.training.pretraining import Pretraining, open_pair_sets, prepare_pretraining
from instructrl.training.saving import Saving
from instructrl.training.seeing import Seeing
from instructrl.training.state import TrainState

ROUNDS, STEPS, PICTURES = 4, 10, 1024
WORDS = ("red", "blue", "green", "button", "block", "cup", "left", "right", "table", "lid")


def pairs(side: int) -> Iterator[tuple[bytes, str]]:
    """Pictures with a few words each."""
    numbers = np.random.default_rng(0)
    for _ in range(PICTURES):
        coarse = Image.fromarray(numbers.integers(0, 256, (12, 12, 3), np.uint8))
        picture = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        yield encoded(picture, 95), " ".join(numbers.choice(WORDS, 8))


def bare(training: Pretraining, state: TrainState, batches: list[Any]) -> tuple[TrainState, float]:
    """The state after some steps, and the seconds that they took."""
    began = time.perf_counter()
    for step in range(STEPS):
        state, values = training.train_step(state, batches[step % len(batches)], training.frozen)
    jax.block_until_ready(values)
    return state, time.perf_counter() - began


def main() -> None:
    """Print a line for each."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        words = [
            *("experiment=pretrain_tiny", f"data.dir={folder}", f"output_dir={folder}", "optimizer.warmup_epochs=0"),
            *sys.argv[1:],
        ]
        config = compose("train", TrainConfig, words)
        (folder / "frames").mkdir()
        for split in ("train", "val"):
            write_pairs(folder / "frames" / f"{split}.hdf5", pairs(canvas_size(config)), {})
        run = folder / "run"
        run.mkdir()
        with (
            open_pair_sets(config) as sets,
            open_checkpoints(run) as checkpoints,
            open_metrics(config, run, from_step=0) as metrics,
        ):
            training, state = prepare_pretraining(config, run, sets)
            looks: Any = {
                "saving": Saving(checkpoints, every=None, saved=None, check=None),
                "progress": tqdm(disable=True),
            }
            with closing(training.batches(training.train, 0, 3)) as few:
                ready = list(few)
            best = {"bare": float("inf"), "engine": float("inf")}
            batches = training.batches(training.train, 0, (ROUNDS + 1) * STEPS)
            with closing(Seeing(training, run, metrics)) as seeing, closing(batches):
                for round_ in range(ROUNDS + 1):  # the first compiles
                    state, seconds = bare(training, state, ready)
                    steps = range(round_ * STEPS, (round_ + 1) * STEPS)
                    began = time.perf_counter()
                    state, values = run_epoch(training, state, Mean(), batches, steps=steps, seeing=seeing, **looks)
                    metrics.write("train", values, step=steps.stop, epoch=round_)
                    taken = {"bare": seconds, "engine": time.perf_counter() - began}
                    if round_:
                        best = {name: min(best[name], taken[name]) for name in best}
        rates = {name: STEPS * config.training.batch_size / seconds for name, seconds in best.items()}
        print(f"{config.encoder.name}, batch {config.training.batch_size}, pictures of {canvas_size(config)} pixels")
        for name, rate in rates.items():
            print(f"  {name:<8}{rate:>9.1f} pairs/s   {rate / rates['bare']:.2f}")


if __name__ == "__main__":
    main()
