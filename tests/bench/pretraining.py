"""Throughput of the pretraining loop, compared with the same jitted step in a bare loop.

python tests/bench/pretraining.py [OVERRIDES]      pretrain_tiny, batch 64, on the CPU: about three minutes

- `bare`: forward, backward and update, repeated on batches that are already on the device.
- `engine`: the loop of `train.py`: images read and decoded, batches transferred, metrics fetched and written.
- The rate of the engine against the bare one, by wall time; goal: 0.85.

The images are JPEGs of noise as smooth as a photograph's, of the configured size.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

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
    open_image_text,
    prepare_masked_pretraining,
)
from instructrl.training.running_mean import RunningMean
from instructrl.training.train_loop import run_epoch
from tests.fixtures.rounds import alternate, ratio, wall

STEPS, IMAGES, ENDLESS = 10, 1024, 1_000_000
WORDS = ("red", "blue", "green", "button", "block", "cup", "left", "right", "table", "lid")


def pairs(side: int) -> Iterator[tuple[bytes, str]]:
    """Images with a few words each."""
    rng = np.random.default_rng(0)
    for _ in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        image = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        yield encode_jpeg(image, 95), " ".join(rng.choice(WORDS, 8))


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
            batches = objective.batches(objective.train, 0, ENDLESS)
            with closing(TrainMonitor(objective, run, metrics)) as monitor, closing(batches):
                epochs = count()

                def bare() -> None:
                    nonlocal state
                    for step in range(STEPS):
                        state, values = objective.train_step(state, ready[step % len(ready)], objective.frozen)
                    jax.block_until_ready(values)

                def engine() -> None:
                    nonlocal state
                    epoch = next(epochs)
                    state, values = run_epoch(
                        objective,
                        state,
                        RunningMean(),
                        batches,
                        steps=range(epoch * STEPS, (epoch + 1) * STEPS),
                        progress=progress,
                        monitor=monitor,
                        saver=saver,
                    )
                    metrics.write("train", values, step=(epoch + 1) * STEPS, epoch=epoch)

                took = {name: wall(each) for name, each in alternate({"bare": bare, "engine": engine}).items()}
        print(
            f"{config.encoder.name}, batch {config.training.batch_size}, images of {loaded_image_size(config)} pixels"
        )
        for name, seconds in took.items():
            rate = STEPS * config.training.batch_size / np.median(seconds)
            print(f"  {name:<8}{rate:>9.1f} pairs/s   {ratio(took['bare'], seconds)}")


if __name__ == "__main__":
    main()
