"""Data larger than the memory limit: ten times for loading, verification and statistics, three times for training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.sparse import write_sparse
from tests.fixtures.xla_flags import xla_flags
from tests.paths import ROOT

CAMERAS = ("front", "left_shoulder")
SIZE = 512  # pixels
EPISODE = 3 * len(CAMERAS) * SIZE * SIZE * 3  # bytes

LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), int(sys.argv[1])))
folder = Path(sys.argv[2])

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024
"""

LOAD = """
from instructrl.config.model import EncoderConfig
import time
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.loading.loader import Loader, prefetch
from instructrl.data.text.tokenizer import make_tokenizer
loader = Loader([DemonstrationDataset(folder / "train.hdf5")], make_tokenizer(EncoderConfig()), batch_size=2, seed=0)
shown = 0
for step, batch in enumerate(prefetch(loader, 0, loader.steps_per_epoch, depth=2, put=lambda batch: batch)):
    shown += int(batch.step_mask.any(1).sum())
    if step <= 20:
        time.sleep(0.05)  # the loader runs ahead as far as it may: later, no more batches are in flight
        early = peak()
assert shown == len(loader.files[0].episodes)
assert peak() < early + 16, (early, peak())
"""
VERIFY = """
from data_tools.inspect import arguments, inspect
inspect(arguments([str(folder / "train.hdf5"), "--verify"]))
"""
MEASURE = """
from data_tools.stats.__main__ import arguments, stats
stats(arguments([str(folder / "train.hdf5")]))
"""
TRAIN = """
from instructrl.training.train_loop import train
from instructrl.training.run_dir import open_run
from instructrl.data.loading.loader import Loader
from tests.fixtures import tiny
words = ["sim.image_size=512", f"task.episodes={sys.argv[3]}", "task.val_episodes=2", "training.epochs=1"]
config = tiny.config(folder, *words, "training.batch_size=2", "encoder.image_size=32")
peaks, prepare = {}, Loader.batch

def batch(self, step):
    peaks[len(peaks)] = peak()
    return prepare(self, step)

Loader.batch = batch
train(config, open_run(config), data={split: [folder / f"{split}.hdf5"] for split in ("train", "val")})
begin, end = peaks[len(peaks) // 10], peaks[len(peaks) - 2]
print("peak", begin, end)
assert end < begin + 100, peaks  # 4% of the data; the number of batches in flight varies with the load
"""


def run_limited(program: str, limit: int, folder: Path, times: float = 10) -> None:
    """Run a program with a memory limit of `limit` bytes, on a dataset `times` as large."""
    episodes = int(times * limit / EPISODE) + 1
    path = write_sparse(folder / "train.hdf5", episodes, size=SIZE, cameras=CAMERAS)
    write_sparse(folder / "val.hdf5", 2, size=SIZE, cameras=CAMERAS, split="val")
    assert path.stat().st_size > times * limit
    command = [sys.executable, "-c", LIMITED + program, str(limit), str(folder), str(episodes)]
    alone = os.environ | {"XLA_FLAGS": xla_flags(devices=1)}  # eight devices need more memory
    ran = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    path.unlink()
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-2000:]


@pytest.mark.parametrize("program", [LOAD, VERIFY, MEASURE], ids=["load", "verify", "measure"])
def test_data_larger_than_memory_are_read(tmp_path: Path, program: str) -> None:
    run_limited(program, 220 * 2**20, tmp_path)


def test_data_larger_than_memory_are_learnt_from(tmp_path: Path) -> None:
    """The limit is about the memory of a training with almost no data, most of which is used by the compiler."""
    run_limited(TRAIN, 1000 * 2**20, tmp_path, times=3)
