"""Cost of what is checked when a demonstration file is opened, and of the digest by which a run knows its data.

python tests/bench/opening.py [EPISODES]      20,000 small episodes: about a minute

Compares plain h5py reads of all fields but the pixels with the same reads with all checks (links, filters, chunks,
values, checksums), and with `digest` added.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import fields
from instructrl.data.demonstrations.writer import Writer
from tests.fixtures.demonstrations import HEADER, demonstration
from tests.fixtures.rounds import alternate, processor, ratio

DIFFERENT = 50


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


def main() -> None:
    """Print the ratios and their spread."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.hdf5"
        write(path, episodes)
        works: dict[str, Callable[[Path], None]] = {
            "reading the fields alone": read_plainly,
            "opened and checked": open_checked,
            "opened, checked and digested": open_and_digest,
        }
        found = alternate({name: partial(work, path) for name, work in works.items()})
    (alone, plain), *others = ((name, processor(each)) for name, each in found.items())
    print(f"{episodes} episodes; {alone}: {np.median(plain):.3f} s of the processor")
    for name, took in others:
        print(f"{name}: {ratio(took, plain)} of it")


if __name__ == "__main__":
    main()
