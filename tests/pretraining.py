"""A pretraining small enough for tests: images of coloured squares, and captions that name them."""

from pathlib import Path

import numpy as np

from instructrl.command import compose
from instructrl.config import TrainConfig
from instructrl.data.pairs_file import write_pairs
from instructrl.data.pictures import encode_jpeg

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}
OVERRIDES = (
    "experiment=pretrain_tiny",
    "sim.image_size=32",
    "encoder.dim=16",
    "encoder.depth=2",
    "encoder.heads=2",
    "encoder.patch_size=8",
    "encoder.text_length=8",
    "pretraining.load_size=36",
    "pretraining.decoder_dim=16",
    "pretraining.decoder_depth=1",
    "pretraining.decoder_heads=2",
    "pretraining.train=[{data}/train.hdf5]",
    "pretraining.val=[{data}/val.hdf5]",
    "training.epochs=3",
    "training.batch_size=16",
    "optimizer.warmup_epochs=0",
    "optimizer.learning_rate=1e-2",
    "hardware.local_devices=1",
    "output_dir={out}",
    "name=run",
)


def overrides(folder: Path, data: Path, *more: str) -> list[str]:
    """Command-line settings of a tiny pretraining."""
    return [entry.format(data=data, out=folder / "outputs") for entry in OVERRIDES] + list(more)


def config(folder: Path, data: Path, *more: str) -> TrainConfig:
    """The resolved configuration of a tiny pretraining."""
    return compose("train", TrainConfig, overrides(folder, data, *more))


def write_images(folder: Path, *, count: int = 64) -> Path:
    """Write train.hdf5 and val.hdf5, with coloured squares on grey, into a folder; returns the folder."""
    for split, seed in (("train", 0), ("val", 1)):
        rng = np.random.default_rng(seed)
        pairs = []
        for _ in range(count):
            name = list(COLOURS)[rng.integers(len(COLOURS))]
            image = np.full((36, 36, 3), 128, np.uint8)
            top, left = rng.integers(0, 24, 2)
            image[top : top + 12, left : left + 12] = COLOURS[name]
            pairs.append((encode_jpeg(image, 95), f"reach the {name} ball"))
        write_pairs(folder / f"{split}.hdf5", pairs, {})
    return folder
