"""Cost of what is checked when a demonstration file is opened, and of the digest by which a run knows its data.

python tests/bench/opening.py [EPISODES]      20,000 small episodes: about a minute

Alternates plain h5py reads of all fields but the pixels with the same reads with all checks (links, filters, chunks,
values, checksums), and with `digest` added.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import fields
from instructrl.data.demonstrations.writer import Writer
from tests.fixtures.demonstrations import HEADER, demonstration

ROUNDS, DIFFERENT = 7, 50


def write(path: Path, episodes: int) -> None:
    """Write a file in which a few demonstrations are repeated."""
    some = [demonstration(seed) for seed in range(DIFFERENT)]
    with Writer(path, HEADER) as writer:
        for number in range(episodes):
            writer.add(some[number % DIFFERENT]._replace(seed=number))


def read_plainly(path: Path) -> None:
    """Read every field but the pixels, and check nothing."""
    with h5py.File(path, "r") as file:
        for field in fields(HEADER).values():
            file[field.path][()]
        [sentence.decode() for sentence in file["sentences"][()].tolist()]


def open_checked(path: Path) -> None:
    """Open a data set with all of its checks."""
    DemonstrationDataset(path).close()


def open_and_digest(path: Path) -> None:
    """Open a data set and compute the digest of its contents."""
    with DemonstrationDataset(path) as dataset:
        dataset.digest()


def seconds(work: Callable[[Path], None], path: Path) -> float:
    """Processor time of a call."""
    begin = time.process_time()
    work(path)
    return time.process_time() - begin


def main() -> None:
    """Print the ratios and their spread."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.hdf5"
        write(path, episodes)
        works = (read_plainly, open_checked, open_and_digest)
        rounds = [[seconds(work, path) for work in works] for _ in range(ROUNDS + 1)][1:]
    print(f"{episodes} episodes; reading the fields alone: {sorted(row[0] for row in rounds)[ROUNDS // 2]:.3f} s")
    for column, name in ((1, "opened and checked"), (2, "opened, checked and digested")):
        ratios = sorted(row[column] / row[0] for row in rounds)
        print(f"{name}: {ratios[ROUNDS // 2]:.2f} of it ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
