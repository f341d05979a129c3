"""Throughput of the pretraining loop, compared with the same jitted step in a bare loop. Prints rates and their ratio.

python tests/bench/pretraining.py [OVERRIDES]      pretrain_tiny, batch 64, on the CPU: about three minutes

- `bare`: forward, backward and update, repeated on batches that are already on the device.
- `engine`: the loop of `train.py`: images read and decoded, batches transferred, metrics fetched and written.
- The rounds of both alternate, since machines are shared; the best round of each counts. Goal: 0.85.

The images are JPEGs of noise as smooth as a photograph's, of the configured size.
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

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig, loaded_image_size
from instructrl.data.image_text.hdf5_source import write_pairs
from instructrl.data.image_text.images import encode_jpeg
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.checkpointing.saver import CheckpointSaver
from instructrl.training.monitoring.metric_writer import open_metrics
from instructrl.training.monitoring.monitor import TrainMonitor
from instructrl.training.objectives.masked_pretraining import (
    MaskedPretraining,
    open_image_text,
    prepare_masked_pretraining,
)
from instructrl.training.running_mean import RunningMean
from instructrl.training.state import TrainState
from instructrl.training.train_loop import run_epoch

ROUNDS, STEPS, IMAGES = 4, 10, 1024
WORDS = ("red", "blue", "green", "button", "block", "cup", "left", "right", "table", "lid")


def pairs(side: int) -> Iterator[tuple[bytes, str]]:
    """Images with a few words each."""
    rng = np.random.default_rng(0)
    for _ in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        image = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        yield encode_jpeg(image, 95), " ".join(rng.choice(WORDS, 8))


def bare(objective: MaskedPretraining, state: TrainState, batches: list[Any]) -> tuple[TrainState, float]:
    """Run some steps; returns the state and the duration in seconds."""
    start = time.perf_counter()
    for step in range(STEPS):
        state, values = objective.train_step(state, batches[step % len(batches)], objective.frozen)
    jax.block_until_ready(values)
    return state, time.perf_counter() - start


def main() -> None:
    """Print one line per loop."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        words = [
            *("experiment=pretrain_tiny", f"data.dir={folder}", f"output_dir={folder}", "optimizer.warmup_epochs=0"),
            *sys.argv[1:],
        ]
        config = compose("train", TrainConfig, words)
        (folder / "frames").mkdir()
        for split in ("train", "val"):
            write_pairs(folder / "frames" / f"{split}.hdf5", pairs(loaded_image_size(config)), {})
        run = folder / "run"
        run.mkdir()
        with (
            open_image_text(config) as splits,
            open_checkpoints(run) as checkpoints,
            open_metrics(config, run, from_step=0) as metrics,
        ):
            objective, state = prepare_masked_pretraining(config, run, splits)
            saver = CheckpointSaver(checkpoints, every=None, on_saved=None, check=None)
            progress = tqdm(disable=True)
            with closing(objective.batches(objective.train, 0, 3)) as first:
                ready = list(first)
            best = {"bare": float("inf"), "engine": float("inf")}
            batches = objective.batches(objective.train, 0, (ROUNDS + 1) * STEPS)
            with closing(TrainMonitor(objective, run, metrics)) as monitor, closing(batches):
                for round_ in range(ROUNDS + 1):  # the first one compiles
                    state, seconds = bare(objective, state, ready)
                    steps = range(round_ * STEPS, (round_ + 1) * STEPS)
                    start = time.perf_counter()
                    state, values = run_epoch(
                        objective,
                        state,
                        RunningMean(),
                        batches,
                        steps=steps,
                        progress=progress,
                        monitor=monitor,
                        saver=saver,
                    )
                    metrics.write("train", values, step=steps.stop, epoch=round_)
                    durations = {"bare": seconds, "engine": time.perf_counter() - start}
                    if round_:
                        best = {name: min(best[name], durations[name]) for name in best}
        rates = {name: STEPS * config.training.batch_size / seconds for name, seconds in best.items()}
        print(
            f"{config.encoder.name}, batch {config.training.batch_size}, images of {loaded_image_size(config)} pixels"
        )
        for name, rate in rates.items():
            print(f"  {name:<8}{rate:>9.1f} pairs/s   {rate / rates['bare']:.2f}")


if __name__ == "__main__":
    main()
