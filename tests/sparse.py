"""Sparse files of demonstrations, larger than memory without using disk space: all pixels are zero."""

from pathlib import Path

import numpy as np
import pytest

from instructrl.data.sink import Hdf5FileDriver
from instructrl.data.writer import Writer
from tests.demonstrations import HEADER, demonstration

HOLE = 4096  # smallest write of zeros, in bytes, that is left as a hole


def write_sparse(path: Path, count: int, *, size: int, cameras: tuple[str, ...], split: str = "train") -> Path:
    """Write `count` episodes of a split, with 2 steps and 3 frames of `size` pixels each."""
    header = HEADER.__class__("pick_and_lift", split, cameras, size, {"renderer": "raycast"})
    black = np.zeros((3, len(cameras), size, size, 3), np.uint8)
    write = Hdf5FileDriver.write

    def skip(self: Hdf5FileDriver, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        if len(view) < HOLE or np.frombuffer(view, np.uint8).any():
            return write(self, buffer)
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hdf5FileDriver, "write", skip)
        with Writer(path, header) as writer:
            for seed in range(count) if split == "train" else range(10**6, 10**6 + count):
                writer.add(demonstration(seed, sentences=(f"lift {seed % 7}",))._replace(images=black))
    return path
